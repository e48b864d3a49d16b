"""docs/methods.md: its count of code lines is that of now, and its results are those of a sweep."""

import importlib.util

import pytest
from helpers import REPOSITORY


@pytest.fixture(scope="module")
def methods():
    spec = importlib.util.spec_from_file_location("methods", REPOSITORY / "tools/benchmarks/methods.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SOURCE = '''"""A docstring
of two lines."""

import os  # counted: 1

# a comment
class A:  # 2
    """One."""

    text = """counted:
    three lines"""  # 3, 4

    def f(self):  # 5
        """Two
        lines."""
        "not a docstring: counted"  # 6
        return os.path.join(  # 7
            "a",  # 8

            "b",  # 9
        )  # 10
'''


def test_lines_of_code_by_hand(methods):
    assert methods.code_lines(SOURCE) == 10
    assert methods.code_lines("") == 0 and methods.code_lines('"""Only this."""\n') == 0


def test_the_page_has_the_lines_of_now(methods):
    page = methods.PAGE.read_text(encoding="utf-8")
    assert methods.replaced(page, methods.CODE, methods.code_table()) == page, "run: python tools/benchmarks/methods.py"


def test_no_project_has_more_than_250_lines_of_code(methods):
    lines = {
        name: methods.lines_of(REPOSITORY / "projects" / name) for name in methods.methods() if name != methods.OWN
    }
    assert max(lines.values(), default=0) <= 250, lines


def row(config, **runs):
    runs = {
        seed.strip("s"): dict(zip(("mAP before training", "mAP", "rank-1", "ARI", "minutes"), run))
        for seed, run in runs.items()
    }
    known = [run["mAP"] for run in runs.values()]
    return {"setting": {"config": config}, "seeds": [0, 1, 2], "runs": runs, "mean": {"mAP": sum(known) / len(known)}}


def test_results_are_sorted_and_count_the_seeds_above_their_start(methods):
    lower = row("BUC_synthetic", s0=(25.0, 60.0, 70.0, 0.5, 2.0), s1=(25.0, 20.0, 70.0, None, 2.0))
    higher = row(
        "ISE_synthetic_mobilenetv2",
        s0=(25.0, 96.0, 99.0, 0.9, 3.0),
        s1=(25.0, 97.0, 99.0, 0.9, 3.0),
        s2=(25.0, 98.0, 99.0, 0.9, 3.0),
    )
    lines = methods.results_table({"command": "ise-sweep", "rows": [lower, higher]}).splitlines()
    assert lines[0] == "    ise-sweep" and lines[2].split(" | ")[-1] == "above its start |"
    assert lines[4] == "| ISE | 25 ± 0 | 97 ± 1 | 99 ± 0 | 0.9 ± 0 | 3 ± 0 | 3 of 3 |"
    assert lines[5].endswith("| 25 ± 0 | 40 ± 28 | 70 ± 0 | 0.5 | 2 ± 0 | 1 of 3 |")


def test_only_the_named_block_is_exchanged(methods):
    page = "a\n" + methods.START.format("x") + "old\n" + methods.END.format("x") + "\nb\n"
    assert methods.replaced(page, "x", "new\n") == page.replace("old", "new")
