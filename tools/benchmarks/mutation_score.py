#!/usr/bin/env python3
"""Share of small changes to method/, neighbors/ and clustering/ that their tests notice: mutation_score.py --mutants 200"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
# package -> its tests; the later ones are tried where the first notice nothing
TESTS = {
    "method": [["tests/method"]],
    "neighbors": [["tests/neighbors"], ["tests/utils/test_distributed.py", "-k", "search"], ["tests/clustering"]],
    "clustering": [["tests/clustering"]],
}
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
# folder of what numba has compiled, inside the copy
NUMBA = "numba"
# lines that speak to people, not to the program
SILENT = ("raise ", "logger.", "warn", "bar.update", "tqdm(", "isatty")


def places(tree: ast.AST, source: str) -> list:
    """(node, number of the change) of all changes, docstrings, messages, annotations and decorators left out."""
    lines = source.splitlines()
    silent = {
        n
        for node in ast.walk(tree)
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.AnnAssign))
        for n in ast.walk(node)
    }
    silent |= {n for f in ast.walk(tree) if isinstance(f, ast.arguments) for a in f.args for n in ast.walk(a)}
    # decorators speak to the compiler: whether to keep what it made, say
    silent |= {
        n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for d in f.decorator_list for n in ast.walk(d)
    }
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
    files = [path for name in TESTS for path in sorted((REPOSITORY / "ise_plugin" / name).glob("*.py"))]
    return [(path, i) for path in files for i in range(len(places(*_parsed(path))))]


def _parsed(path: Path) -> tuple:
    source = path.read_text()
    return ast.parse(source), source


def tests_pass(copy: Path, package: str, seconds: float) -> bool:
    """Whether the tests of a package pass in a copy of the repository; tests that never end do not."""
    return all(_pass(copy, tests, seconds) for tests in TESTS[package])


def _pass(copy: Path, tests: list, seconds: float) -> bool:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "NUMBA_CACHE_DIR": str(copy / NUMBA)}
    try:
        return subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=seconds).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def survives(copy: Path, path: Path, index: int, seconds: float) -> tuple:
    """Whether the tests pass with the change made in a copy of the repository, and what the change was."""
    tree, source = _parsed(path)
    node = places(tree, source)[index]
    line, said = node.lineno, change(node)
    target = copy / path.relative_to(REPOSITORY)
    times = target.stat().st_atime_ns, target.stat().st_mtime_ns
    compiled = copy / NUMBA
    # what was compiled is kept by the file's time alone, also where it contains functions of a file that was changed
    kept = compiled.rename(copy / "kept")
    if "njit" not in source:
        shutil.copytree(kept, compiled)
    target.write_text(ast.unparse(ast.fix_missing_locations(tree)))
    passed = tests_pass(copy, path.parent.name, seconds)
    target.write_text(source)
    os.utime(target, ns=times)
    shutil.rmtree(compiled, ignore_errors=True)
    kept.rename(compiled)
    return passed, f"{path.relative_to(REPOSITORY)}:{line}: {said}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=0, help="how many, drawn at random; 0 takes all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--seconds", type=float, default=300, help="after which a change counts as noticed")
    parser.add_argument("--package", choices=TESTS, help="one of them alone")
    args = parser.parse_args()
    all_of_them = [m for m in mutants() if args.package in (None, m[0].parent.name)]
    chosen = random.Random(args.seed).sample(all_of_them, min(args.mutants or len(all_of_them), len(all_of_them)))
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "repository"
        copy.mkdir()
        for part in ("ise_plugin", "tests", "configs", "tools", "projects"):
            shutil.copytree(REPOSITORY / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPOSITORY / "setup.cfg", copy)
        (copy / NUMBA).mkdir()
        for package in sorted({path.parent.name for path, _ in chosen}):
            if not tests_pass(copy, package, args.seconds):
                sys.exit(f"error: the tests of {package} fail without any change: nothing can be measured")
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
