#!/usr/bin/env python3
"""Ranked queries before and after a run, as one picture: python projects/SyntheticPersons/ranked.py --run RUN

Before is the network that the run started from. The queries are those at fixed quantiles of the average precision before
training, so none is chosen by hand.
"""

from __future__ import annotations

import ise_plugin  # noqa: F401  isort:skip  (first: it makes fastreid importable)

import argparse
import io
import os
import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ise_plugin.config import load_cfg
from ise_plugin.data.thumbnails import TILE, tile
from ise_plugin.engine import ISETrainer
from ise_plugin.engine.checkpointing import ISECheckpointer
from ise_plugin.engine.evaluation import Retrieval, evaluate_sets
from ise_plugin.report.sheets import ranking
from ise_plugin.utils.command_line import run_command
from ise_plugin.utils.files import write_atomically

QUANTILES = (0.2, 0.4, 0.6, 0.8)
RANKS = 6
# Pixels.
GAP, BORDER, HEADING, BLOCK = 4, 3, 26, 20
RIGHT, WRONG, QUERY, TEXT, GROUND = (46, 160, 67), (207, 34, 46), (140, 149, 159), (31, 35, 40), (255, 255, 255)
WIDTH, HEIGHT = TILE[0] + 2 * BORDER + GAP, TILE[1] + 2 * BORDER + GAP


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description="Draw ranked queries before and after training.")
    result.add_argument("--run", required=True, help="output folder of a run with a test set")
    result.add_argument("--output", default="docs/images/demo_ranked.png", help="picture to write (.png)")
    return result


def draw(args: argparse.Namespace) -> None:
    cfg = load_cfg(os.path.join(args.run, "config.yaml"), ["MODEL.WEIGHTS", ""])
    model = ISETrainer.build_model(cfg)
    stages = {}
    for name in ("before training", "after training"):
        stages[name] = evaluate_sets(cfg, model, ISETrainer.build_evaluator)[1][0]
        ISECheckpointer(model).load(os.path.join(args.run, "model_final.pth"), checkpointables=[])
    buffer = io.BytesIO()
    page(stages).quantize().save(buffer, "PNG", optimize=True)
    write_atomically(args.output, buffer.getvalue())
    print(args.output)


def page(stages: dict[str, Retrieval]) -> Image.Image:
    """A row for each query: itself, and its nearest gallery images at each stage, matches in green."""
    before = next(iter(stages.values()))
    precisions = before.average_precisions
    order = np.argsort(precisions)[: np.isfinite(precisions).sum()]
    queries = [int(order[round(quantile * (len(order) - 1))]) for quantile in QUANTILES]
    lefts = [GAP + WIDTH + BLOCK + stage * (RANKS * WIDTH + BLOCK) for stage in range(len(stages))]
    picture = Image.new("RGB", (lefts[-1] + RANKS * WIDTH, HEADING + len(queries) * HEIGHT), GROUND)
    canvas, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    canvas.text((GAP, GAP), "query", fill=TEXT, font=font)
    for left, (name, retrieval) in zip(lefts, stages.items()):
        canvas.text((left, GAP), name, fill=TEXT, font=font)
        for row, query in enumerate(queries):
            nearest, match = ranking(retrieval, query)
            gallery = retrieval.paths[len(retrieval.average_precisions) :]
            for rank in range(RANKS):
                framed = ImageOps.expand(tile(gallery[nearest[rank]]), BORDER, RIGHT if match[rank] else WRONG)
                picture.paste(framed, (left + rank * WIDTH, HEADING + row * HEIGHT))
    for row, query in enumerate(queries):
        picture.paste(ImageOps.expand(tile(before.paths[query]), BORDER, QUERY), (GAP, HEADING + row * HEIGHT))
    return picture


def main(argv=None) -> int:
    return run_command(parser(), draw, argv)


if __name__ == "__main__":
    sys.exit(main())
