#!/usr/bin/env python3
"""The network of a run as one file: python tools/export.py --run out --format onnx --output model.onnx"""

import argparse
import sys

from ise_plugin.utils.command_line import run_command


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description="Export the network of a finished run: RGB images in, unit embeddings out, any batch size."
    )
    result.add_argument("--run", required=True, help="output folder of the run")
    result.add_argument("--output", required=True, help="file to write")
    result.add_argument("--format", default="onnx", choices=("onnx", "torchscript"))
    result.add_argument(
        "--inputs",
        default="pixels",
        choices=("pixels", "normalized"),
        help="what the file takes: pixels of 0 to 255 (default), or normalized as BoxMOT's and Roboflow's loaders hand them "
        "over, by ImageNet's mean and deviation",
    )
    result.add_argument("--weights", help="file of weights (default: the run's model_chosen.pth, else model_final.pth)")
    return result


def export(args: argparse.Namespace) -> None:
    from ise_plugin import Embedder
    from ise_plugin.inference.exports import export as export_network

    exported = export_network(Embedder(args.run, args.weights, device="cpu"), args.output, args.format, args.inputs)
    print(f"{exported.path}: same embeddings as the original (least cosine similarity {exported.least_cosine:.7f})")


def main(argv=None) -> int:
    return run_command(parser(), export, argv)


if __name__ == "__main__":
    sys.exit(main())
