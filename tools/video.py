#!/usr/bin/env python3
"""Recordings in, people out: python tools/video.py identities cam1.mp4 cam2.mp4 --boxes "boxes/{}.txt" --output out"""

import argparse
import os
import sys

from ise_plugin.utils.command_line import run_command

FALSE_ACCEPT = 0.01


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description="Who is in these recordings, and when? Cuts people out, trains a network on them or takes yours, and gives "
        "each person a number over all cameras. A call that was interrupted goes on where it stopped."
    )
    commands = result.add_subparsers(metavar="COMMAND", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    common.add_argument("--output", required=True, metavar="FOLDER", help="for crops, people, tables and the report")

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, parents=[common])
        made.set_defaults(command=run)
        return made

    made = command("identities", identities, "recordings -> crops, network, people, files")
    made.add_argument("sources", nargs="+", metavar="RECORDING", help="video files, or folders of frames")
    _cutting(made)
    made.add_argument("--model", help="run, config or .onnx file to embed by; nothing is trained then")
    made.add_argument("--weights", help="file of weights for it (default: its own)")
    made.add_argument("--config", default=None, help="to train by (default: ISE/folder_reid.yml)")
    made.add_argument(
        "--set",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        help="a key of the config; several times",
    )
    made = command("add", add, "more recordings into the same people; nothing is trained")
    made.add_argument(
        "sources", nargs="+", metavar="RECORDING", help="video files, folders of frames, rtsp:// addresses"
    )
    _cutting(made)
    made.add_argument("--model", help="of the network (default: the one that the ledger remembers)")
    made.add_argument("--weights", help="file of weights for it (default: its own)")
    made.add_argument(
        "--false-accept",
        type=float,
        default=FALSE_ACCEPT,
        help=f"share of people not known that may be taken for somebody (default: {FALSE_ACCEPT})",
    )
    made = command("annotate", annotate, "draw the numbers of people on the recordings")
    made.add_argument(
        "sources", nargs="*", metavar="RECORDING", help="where they are now (default: all, where they were)"
    )
    made.add_argument("--frame", type=int, metavar="NUMBER", help="draw this frame alone, as a picture")
    command("export", export, "write tables and report anew, after corrections with ise-identities")
    return result


def _cutting(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--boxes",
        help="people's boxes: MOT file, COCO .json, or folder of YOLO files; {} stands for the recording's name",
    )
    made.add_argument(
        "--first-frame", type=int, choices=(0, 1), help="what these call the first frame, where they do not tell"
    )
    made.add_argument(
        "--detector", help="without boxes: an .onnx detector, or module:function (default: OpenCV's, a weak one)"
    )
    made.add_argument("--camera", default="", help="regular expression whose group is the camera in a recording's name")
    made.add_argument("--every", type=int, default=1, help="look at frames whose number is a multiple (default: 1)")
    made.add_argument("--fps", type=float, help="look at so many frames a second at most")
    made.add_argument("--seconds", type=float, help="stop there, an address above all")
    made.add_argument(
        "--frame-rate", type=float, help="frames a second of a folder (default: as in seqinfo.ini, else 25)"
    )
    made.add_argument(
        "--min-height", type=int, default=48, help="pixels of the smallest person to be cut out (default: 48)"
    )
    made.add_argument("--border", action="store_true", help="cut out people at the frame's edge as well")
    made.add_argument("--processes", type=int, help="recordings at a time (default: one for each core)")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")


def _settings(args: argparse.Namespace):
    from ise_plugin.video.crop_filter import CropRules
    from ise_plugin.video.crops import CutSettings

    rules = CropRules(min_height=args.min_height, border=args.border)
    look = args.every, args.fps, args.seconds, args.frame_rate
    return CutSettings(args.boxes, args.first_frame, args.detector, *look, rules)


def identities(args: argparse.Namespace) -> None:
    from ise_plugin.video.jobs import CONFIG, Training, find_people

    training = Training(args.config or CONFIG, [word for pair in args.set for word in pair])
    network = args.model, args.weights, training, args.device
    _say(args.output, find_people(args.sources, args.output, _settings(args), args.camera, *network, args.processes))


def add(args: argparse.Namespace) -> None:
    from ise_plugin.video.jobs import add_recordings

    network = args.model, args.weights, args.false_accept, args.device
    added, results = add_recordings(args.sources, args.output, _settings(args), args.camera, *network, args.processes)
    print(f"{added.images} crops came in: {added.known} known, {added.new} new, {added.undecided} undecided")
    _say(args.output, results)


def annotate(args: argparse.Namespace) -> None:
    from ise_plugin.ledger import IdentityLedger
    from ise_plugin.video.annotate import annotate as draw
    from ise_plugin.video.jobs import LEDGER

    with IdentityLedger(os.path.join(args.output, LEDGER)) as ledger:
        names = {person.number: person.name for person in ledger.people()}
    print(*draw(args.output, args.sources, names, args.frame), sep="\n")


def export(args: argparse.Namespace) -> None:
    from ise_plugin.video.jobs import export as write

    _say(args.output, write(args.output))


def _say(output: str, results) -> None:
    print(
        f"{results.people} people in {results.recordings} recordings, {len(results.visits)} visits; report: {output}/report.html"
    )


def main(argv=None) -> int:
    return run_command(parser(), lambda args: args.command(args), argv)


if __name__ == "__main__":
    sys.exit(main())
