#!/usr/bin/env python3
"""Fills the tables of docs/methods.md: lines of code of every method, and with --sweep what they reached.

    python tools/benchmarks/methods.py
    python tools/benchmarks/methods.py --sweep logs/methods/methods.json    # of the sweep that the page names

A method is a folder of projects/ with a config for drawn persons, and ISE itself. A line of code holds something beside comments
and docstrings.
"""

import argparse
import ast
import io
import json
import sys
import tokenize
from pathlib import Path

from ise_plugin.errors import UsageError
from ise_plugin.report.compare import spread_of
from ise_plugin.sweep.grid import config_name
from ise_plugin.utils.command_line import run_command

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs/methods.md"
OWN, OWN_CODE, OWN_CONFIG = "ISE", "ise_plugin/method", "configs/ISE/synthetic_mobilenetv2.yml"
CONFIGS = "configs/synthetic*.yml"
CODE, RESULTS = "code", "results"
START, END = "<!-- {}: written by tools/benchmarks/methods.py -->\n", "<!-- end of {} -->"
BEFORE, AFTER = "mAP before training", "mAP"
COLUMNS = {BEFORE: "mAP before", AFTER: "mAP", "rank-1": "rank-1", "ARI": "ARI", "minutes": "minutes"}  # headings
_NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def code_lines(source: str) -> int:
    """Lines that hold code: no comments, docstrings or blank lines."""
    lines: set = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node
        ):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def lines_of(folder: Path) -> int:
    return sum(code_lines(path.read_text(encoding="utf-8")) for path in folder.rglob("*.py"))


def methods() -> dict[str, list[Path]]:
    """name -> its configs for drawn persons."""
    folders = sorted(path for path in (REPOSITORY / "projects").iterdir() if path.is_dir())
    found = {folder.name: sorted(folder.glob(CONFIGS)) for folder in folders}
    return {OWN: [REPOSITORY / OWN_CONFIG], **{name: configs for name, configs in found.items() if configs}}


def code_table() -> str:
    """Configs and lines of code of every method, with a link from the page."""
    rows = []
    for name, configs in methods().items():
        home, page = (OWN_CODE, "method.md") if name == OWN else (f"projects/{name}", f"../projects/{name}/README.md")
        names = ", ".join(f"`{path.stem}`" for path in configs)  # links to all would make the line too long
        rows.append([f"[{name}]({page})", names, str(lines_of(REPOSITORY / home))])
    return _pipes(["method", "config", "code lines"], rows)


def results_table(sweep: dict) -> str:
    """What every config reached, the best first; ``sweep`` is the content of the sweep's JSON file."""
    shown = {config_name(str(path)): name for name, paths in methods().items() for path in paths}
    rows = []
    for row in sweep["rows"]:
        runs, (config, *_) = list(row["runs"].values()), row["setting"].values()
        name = shown.get(config, config)
        variant = config.removeprefix(f"{name}_synthetic").strip("_") if name != OWN else ""
        spreads = [spread_of([run[m] for run in runs if run.get(m) is not None]) for m in COLUMNS]
        cells = [f"{name} {variant}".strip(), *map(str, spreads)]
        known = [run for run in runs if run.get(BEFORE) is not None and run.get(AFTER) is not None]
        above = sum(run[AFTER] > run[BEFORE] for run in known)
        rows.append((row["mean"].get(AFTER) or 0.0, [*cells, f"{above} of {len(row['seeds'])}"]))
    head = ["method", *COLUMNS.values(), "above its start"]
    ordered = [cells for _, cells in sorted(rows, key=lambda row: -row[0])]
    return f"    {sweep['command']}\n\n{_pipes(head, ordered)}"


def _pipes(head: list, rows: list) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def replaced(page: str, name: str, content: str) -> str:
    """The page with a block's content exchanged."""
    start, end = START.format(name), END.format(name)
    before, rest = page.split(start)
    return before + start + content + end + rest.split(end, 1)[1]


def fill(args: argparse.Namespace) -> None:
    page = replaced(PAGE.read_text(encoding="utf-8"), CODE, code_table())
    if args.sweep:
        try:
            sweep = json.loads(Path(args.sweep).read_text())
            page = replaced(page, RESULTS, results_table(sweep))
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"--sweep {args.sweep} is no table of tools/sweep.py ({error}); name its .json") from error
    PAGE.write_text(page, encoding="utf-8")
    print(PAGE.relative_to(REPOSITORY))


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", metavar="JSON", help="a table of tools/sweep.py")
    return run_command(parser, fill, argv)


if __name__ == "__main__":
    sys.exit(main())
