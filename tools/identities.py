#!/usr/bin/env python3
"""Identities of a run, and those that last: python tools/identities.py init --ledger people.ledger --run out

Without the name of a command, keeps the safe groups of a run: --run out --min-confidence 0.8 --output safe
"""

import argparse
import json
import os
import sys

from ise_plugin.errors import UsageError
from ise_plugin.utils.command_line import run_command

FALSE_ACCEPT = 0.01
QUESTIONS = 40
FORMATS = ("csv", "cvat", "label-studio")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description="Keep identities in a ledger: one file that lasts, in which nothing is renumbered and everything but forget "
        "can be undone. Without a command: keep the safe groups of a run (ise-identities keep --help)."
    )
    commands = result.add_subparsers(metavar="COMMAND", required=True)
    # after a command as well as before it
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)

    def command(name: str, run, text: str, ledger: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, parents=[common])
        made.set_defaults(command=run)
        if ledger:
            made.add_argument("--ledger", required=True, metavar="FILE", help="the ledger")
        return made

    made = command("keep", keep, "write identities.csv and contact sheets anew without unsure groups", ledger=False)
    made.add_argument("--run", required=True, help="output folder of the run, with identities.csv")
    made.add_argument("--min-confidence", type=float, default=0.0, help="of the groups to keep, 0 to 1 (default: 0)")
    made.add_argument("--output", help="folder to write to")
    made.add_argument(
        "--score", metavar="TRUTH_CSV", help="columns path (as in identities.csv) and identity, of some images"
    )

    made = command("init", init, "make a ledger from a finished run on a folder")
    made.add_argument("--run", required=True, help="output folder of the run, with identities.csv")
    _network(made)
    made = command("add", add, "decide of new pictures: known, new or undecided")
    made.add_argument("inputs", nargs="+", metavar="FILE_OR_FOLDER", help="pictures, or folders of any depth")
    made.add_argument("--run", help="output folder of the run (default: the one that the ledger remembers)")
    made.add_argument(
        "--false-accept",
        type=float,
        default=FALSE_ACCEPT,
        help=f"share of people not in the ledger that may be taken for somebody (default: {FALSE_ACCEPT})",
    )
    made.add_argument("--camera-regex", help="tells cameras, tracks and times by paths (default: as in the run)")
    made.add_argument("--camera-csv", metavar="FILE", help="the same by a table")
    made.add_argument("--camera-folders", action="store_true", help="the first sub-folder names the camera")
    _network(made)

    made = command("undo", undo, "take back a change, by default the last")
    made.add_argument("change", type=int, nargs="?", help="its number, as stats lists it")
    made = command("merge", merge, "say that people are one, who keeps the first number")
    made.add_argument("people", type=int, nargs="+", metavar="PERSON")
    made = command("split", split, "say that some images of a person are another's")
    made.add_argument("person", type=int)
    made.add_argument("images", nargs="+", metavar="FILE", help="as the ledger has them (ise-identities export)")
    made = command("answer", answer, "say of two images that they show one person, or two; held to when labelled anew")
    made.add_argument("said", choices=("same", "different"))
    made.add_argument("images", nargs=2, metavar="FILE")
    made = command("name", name, "give a person a name; an empty one takes it away")
    made.add_argument("person", type=int)
    made.add_argument("name")
    made = command("lock", lock, "hold to a person's images")
    made.add_argument("person", type=int)
    made.add_argument("--off", action="store_true", help="open it again")
    made = command("forget", forget, "delete a person for good: rows, embeddings, contact sheets, index entries")
    made.add_argument("person", type=int)
    made.add_argument("--files", nargs="*", default=[], help="embeddings (.npz) and indexes that may hold the person")
    made.add_argument("--yes", action="store_true", help="do it: this cannot be undone, nor what was done before")
    made = command(
        "corrections", corrections, "write what people said as pairs of images, for ISE.CORRECTIONS of a training"
    )
    made.add_argument("--output", required=True, metavar="FILE")
    made = command("review", review, "ask a person what helps most: a page to answer offline, or served with saving")
    made.add_argument("--output", metavar="FILE.html", help="the page; import reads the answers that it saves")
    made.add_argument("--questions", type=int, default=QUESTIONS, help=f"on the page (default: {QUESTIONS})")
    made.add_argument("--serve", action="store_true", help="on this machine's loopback, until Ctrl-C; saves at once")
    made.add_argument("--port", type=int, default=0, help="of --serve (default: a free one)")
    made = command("import", take_in, "take in what a person said: answers of review, or an edited table of export")
    made.add_argument("file", metavar="FILE")
    made = command("retrain", retrain, "take the groups of a network trained anew; people keep their numbers")
    made.add_argument("--run", required=True, help="output folder of the new run, on all images of the ledger")
    made.add_argument("--changes", metavar="FILE", help="write a line for every image that moved (CSV)")
    _network(made)
    made = command("export", export, "write whose every image is: a table, or a task of an annotation program")
    made.add_argument("--output", required=True, metavar="FILE")
    made.add_argument(
        "--format", choices=FORMATS, default=FORMATS[0], help=f"{', '.join(FORMATS)}; import reads each of them, edited"
    )
    made = command("check", check, "look for damage, and for pictures that are gone")
    made.add_argument("--repair", metavar="FILE", help="write what can be saved into a new ledger")
    command("stats", stats, "count, and list the changes that can be undone")
    return result


def _network(made: argparse.ArgumentParser) -> None:
    made.add_argument("--weights", help="file of weights (default: the run's own)")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")


def keep(args: argparse.Namespace) -> None:
    from ise_plugin.identities.groups import CSV_NAME, SUMMARY_NAME, keep_safe, read_csv, table_of, write_identities
    from ise_plugin.identities.score import read_truth, score_of

    if not 0 <= args.min_confidence <= 1:
        raise UsageError(f"--min-confidence must be from 0 to 1, not {args.min_confidence}")
    if not (args.output or args.score):
        raise UsageError("nothing to do; name --output, --score, or both")
    rows = keep_safe(read_csv(os.path.join(args.run, CSV_NAME)), args.min_confidence)
    if args.score:
        print(table_of(score_of(rows, read_truth(args.score))))
    if not args.output:
        return
    if os.path.realpath(args.output) == os.path.realpath(args.run):
        raise UsageError("--output is the run itself, whose identities would be lost; name another folder")
    folder = _folder_of_images(os.path.join(args.run, SUMMARY_NAME))
    try:
        os.makedirs(args.output, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {args.output!r} cannot be made ({error.strerror}); name another folder") from error
    print(table_of(write_identities(args.output, folder, rows, {"min_confidence": args.min_confidence})))


def _folder_of_images(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            folder = os.fspath(json.load(file)["folder"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read ({error}); name a finished run") from error
    if not os.path.isdir(folder):
        raise UsageError(
            f"the images were in {folder!r}, which is no folder any more; call this where it is, or write "
            f"the new place into {path}"
        )
    return folder


def _opened(args: argparse.Namespace):
    from ise_plugin.ledger import IdentityLedger

    return IdentityLedger(args.ledger)


def init(args: argparse.Namespace) -> None:
    from ise_plugin.ledger.jobs import init_from_run

    with init_from_run(args.ledger, args.run, args.device, args.weights) as ledger:
        images = list(ledger.images())
        undecided = sum(row.person is None for row in images)
        print(f"{args.ledger}: {len(ledger.people())} people, {len(images)} images, {undecided} of them undecided")


def add(args: argparse.Namespace) -> None:
    from ise_plugin.data.datasets.folder import folder_rules
    from ise_plugin.ledger.jobs import add_files

    told = args.camera_regex or args.camera_csv or args.camera_folders
    rules = folder_rules(args.camera_regex or "", args.camera_csv or "", args.camera_folders) if told else None
    added = add_files(args.ledger, args.inputs, args.false_accept, args.run, rules, args.device, args.weights)
    if not added.images:
        print("nothing new")
        return
    people = f" ({len(added.people)} people, from number {added.people[0]})" if added.people else ""
    decided = f"{added.known} known, {added.new} new{people}, {added.undecided} undecided"
    print(f"{added.images} images came in; with undecided ones of before that are like them: {decided}")


def undo(args: argparse.Namespace) -> None:
    with _opened(args) as ledger:
        change = ledger.undo(args.change)
    print(f"undone: change {change.number}, {change.kind} of {change.at} ({change.summary})")


def merge(args: argparse.Namespace) -> None:
    if len(args.people) < 2:
        raise UsageError("name the person who stays, and one or more others")
    with _opened(args) as ledger:
        ledger.merge(*args.people)
        print(f"person {args.people[0]} has {len(ledger.images_of(args.people[0]))} images")


def split(args: argparse.Namespace) -> None:
    with _opened(args) as ledger:
        images = ledger.image_numbers(args.images)
        print(f"person {ledger.split(args.person, images)} has {len(images)} images")


def answer(args: argparse.Namespace) -> None:
    with _opened(args) as ledger:
        ledger.answer(*ledger.image_numbers(args.images), args.said == "same")


def name(args: argparse.Namespace) -> None:
    with _opened(args) as ledger:
        ledger.name(args.person, args.name)


def lock(args: argparse.Namespace) -> None:
    with _opened(args) as ledger:
        ledger.lock(args.person, not args.off)


def forget(args: argparse.Namespace) -> None:
    from ise_plugin.ledger.forgetting import forget as forget_person

    with _opened(args) as ledger:
        count = ledger.require(args.person).images
        if not args.yes:
            raise UsageError(f"person {args.person} has {count} images; this cannot be undone: add --yes to do it")
        done = forget_person(ledger, args.person, args.files)
    print(f"{done.images} images forgotten; also in: {', '.join(done.files) or 'no other file'}")
    if done.remaining:
        print("out of reach:", *done.remaining, sep="\n  ")


def corrections(args: argparse.Namespace) -> None:
    from ise_plugin.ledger.jobs import write_ledger_corrections

    with _opened(args) as ledger:
        links, apart = write_ledger_corrections(ledger, args.output)
    print(f"{args.output}: {links} pairs of one person, {apart} of two")


def review(args: argparse.Namespace) -> None:
    from ise_plugin.ledger.review import write_page

    if bool(args.output) == args.serve:
        raise UsageError("name --output FILE.html for a page to answer offline, or --serve")
    if args.questions < 1:
        raise UsageError(f"--questions must be 1 or more, not {args.questions}")
    if args.serve:
        _serve(args)
        return
    with _opened(args) as ledger:
        count = write_page(ledger, args.output, args.questions)
    print(f"{args.output}: {count} questions; open it in a browser, save the answers, then ise-identities import")


def _serve(args: argparse.Namespace) -> None:
    from ise_plugin.ledger.serving import ReviewServer

    server = ReviewServer(args.ledger, args.port)
    print(f"open {server.address}\nCtrl-C ends it; every answer is in the ledger at once", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()


def take_in(args: argparse.Namespace) -> None:
    from ise_plugin.ledger.exchange import import_file

    with _opened(args) as ledger:
        taken, refused = import_file(ledger, args.file)
    print(f"{taken} taken, {len(refused)} refused", *refused, sep="\n  ")


def retrain(args: argparse.Namespace) -> None:
    from ise_plugin.ledger.jobs import retrain_from_run

    found = retrain_from_run(args.ledger, args.run, args.device, args.weights, args.changes)
    print(f"{found.kept:.1%} of the images that had a person keep it; {len(found.moved)} images moved")
    print(
        f"new people: {len(found.new)}; people without an image any more: {', '.join(map(str, found.gone)) or 'none'}"
    )


def export(args: argparse.Namespace) -> None:
    from ise_plugin.ledger.exchange_files import WRITERS

    with _opened(args) as ledger:
        print(f"{args.output}: {WRITERS[args.format](ledger, args.output)} images")


def check(args: argparse.Namespace) -> None:
    from ise_plugin.ledger.checking import check as look
    from ise_plugin.ledger.checking import salvage

    findings = look(args.ledger)
    for finding in findings:
        print(finding.text)
    if args.repair:
        lost = salvage(args.ledger, args.repair)
        print(f"{args.repair}: {len(lost)} rows lost", *lost, sep="\n  ")
    elif any(finding.harmful for finding in findings):
        raise UsageError(f"{args.ledger} is damaged; --repair NEW_FILE saves what can be read")
    elif not findings:
        print("whole")


def stats(args: argparse.Namespace) -> None:
    from ise_plugin.identities.groups import table_of
    from ise_plugin.ledger.jobs import stats as count

    with _opened(args) as ledger:
        print(table_of(count(ledger)))
        for change in ledger.changes():
            print(f"change {change.number}: {change.kind} {change.summary}, {change.at}")


def main(argv=None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    made = parser()
    names = made._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    if argv and argv[0] not in (*names, "-h", "--help"):
        argv = ["keep", *argv]  # as before there were commands
    return run_command(made, lambda args: args.command(args), argv)


if __name__ == "__main__":
    sys.exit(main())
