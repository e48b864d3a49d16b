#!/usr/bin/env python3
"""Share of small changes to method/ and clustering/ that their tests notice: python tools/mutation_score.py --mutants 200"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("method", "clustering")
# changes of one operator or constant; each other kind of operator gets the first that differs
COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
}
# lines that speak to people, not to the program
SILENT = ("raise ", "logger.", "warn")


def places(tree: ast.AST, source: str) -> list:
    """(node, number of the change) of all changes, docstrings, messages and annotations left out."""
    lines = source.splitlines()
    silent = {
        n
        for node in ast.walk(tree)
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.AnnAssign))
        for n in ast.walk(node)
    }
    silent |= {n for f in ast.walk(tree) if isinstance(f, ast.arguments) for a in f.args for n in ast.walk(a)}
    found = []
    for node in ast.walk(tree):
        if node in silent or any(mark in lines[getattr(node, "lineno", 1) - 1] for mark in SILENT):
            continue
        if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
            found.append(node)
        elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in ARITHMETIC:
            found.append(node)
        elif isinstance(node, (ast.BoolOp, ast.If, ast.While)):
            found.append(node)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
            found.append(node)
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            found.append(node)
    return found


def change(node: ast.AST) -> str:
    """Changes a node; returns what was done."""
    if isinstance(node, ast.Compare):
        node.ops[0] = COMPARISONS[type(node.ops[0])]()
        return f"comparison became {type(node.ops[0]).__name__}"
    if isinstance(node, (ast.BinOp, ast.AugAssign)):
        node.op = ARITHMETIC[type(node.op)]()
        return f"operator became {type(node.op).__name__}"
    if isinstance(node, ast.BoolOp):
        node.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
        return f"became {type(node.op).__name__}"
    if isinstance(node, (ast.If, ast.While)):
        node.test = ast.UnaryOp(ast.Not(), node.test) if isinstance(node, ast.If) else ast.Constant(False)
        return "condition turned round"
    if isinstance(node, ast.UnaryOp):
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not()
        if isinstance(node.op, ast.Not):
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
        return "sign or not left out"
    node.value = not node.value if isinstance(node.value, bool) else node.value + 1
    return f"constant became {node.value}"


def mutants() -> list:
    """(file, index of the place) of everything that could be changed."""
    files = [path for name in PACKAGES for path in sorted((REPOSITORY / "ise_plugin" / name).glob("*.py"))]
    return [(path, i) for path in files for i in range(len(places(*_parsed(path))))]


def _parsed(path: Path) -> tuple:
    source = path.read_text()
    return ast.parse(source), source


def survives(copy: Path, path: Path, index: int, seconds: float) -> tuple:
    """Whether the tests pass with the change made in a copy of the repository, and what the change was."""
    tree, source = _parsed(path)
    node = places(tree, source)[index]
    line, said = node.lineno, change(node)
    target = copy / path.relative_to(REPOSITORY)
    target.write_text(ast.unparse(ast.fix_missing_locations(tree)))
    package = path.parent.name
    tests = [f"tests/{package}"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "NUMBA_CACHE_DIR": str(copy / "numba")}
    try:
        code = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=seconds).returncode
    except subprocess.TimeoutExpired:
        code = 1  # it never ended: noticed
    target.write_text(source)
    return code == 0, f"{path.relative_to(REPOSITORY)}:{line}: {said}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=0, help="how many, drawn at random; 0 takes all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--seconds", type=float, default=300, help="after which a change counts as noticed")
    parser.add_argument("--package", choices=PACKAGES, help="one of them alone")
    args = parser.parse_args()
    all_of_them = [m for m in mutants() if args.package in (None, m[0].parent.name)]
    chosen = random.Random(args.seed).sample(all_of_them, min(args.mutants or len(all_of_them), len(all_of_them)))
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "repository"
        shutil.copytree(
            REPOSITORY, copy, ignore=shutil.ignore_patterns(".git", ".venv", "logs", "datasets", "__pycache__")
        )
        for number, (path, index) in enumerate(chosen, 1):
            survived, what = survives(copy, path, index, args.seconds)
            survivors += survived
            print(f"{'SURVIVED' if survived else 'noticed '} {what} ({number - survivors}/{number})", flush=True)
    noticed = len(chosen) - survivors
    print(
        f"mutation score: {noticed} of {len(chosen)} ({noticed / max(1, len(chosen)):.1%}), drawn from {len(all_of_them)}"
    )


if __name__ == "__main__":
    main()
