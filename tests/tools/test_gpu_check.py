"""make gpu-check: all of it on the CPU with small sizes, and what it says of parts that fail."""

import os
import sys

import fresh_interpreter
import pytest
import torch
from helpers import HANG, REPOSITORY, load_tool


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "tools"))
    return load_tool("gpu_check")


def rows_of(table):
    """[part, what, value, bar, verdict] of every line, the part repeated."""
    lines = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")][2:]
    rows = [[cell.strip("| ") for cell in line] for line in lines]
    for before, row in zip(rows, rows[1:]):
        row[0] = row[0] or before[0]
    return rows


def test_dry_run_makes_every_part_of_the_table(datasets_folder, tmp_path, tool, monkeypatch):
    """In this process; that each part has one of its own, and a limit of time, the next test shows. Processes of torchrun are
    forked from one that has imported everything."""
    run = tool.subprocess.run

    def forked(words, **options):
        if "torch.distributed.run" not in words:
            return run(words, **options)
        start = next(i for i, word in enumerate(words) if word.endswith("train_net.py"))
        done = fresh_interpreter.run(*words[start:], processes=fresh_interpreter.as_of_torchrun(1), warm=True)
        done.check_returncode()
        return done

    def run_part(number, *_):
        rows = []
        tool.run_checks(tool.PARTS[number - 1].checks(), tool.DRY, rows.append)
        return rows

    monkeypatch.setattr(tool, "run_part", run_part)
    monkeypatch.setattr(tool.subprocess, "run", forked)
    (tmp_path / "datasets").symlink_to(datasets_folder)  # drawn already
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "datasets"))
    output = tmp_path / "check.md"
    assert tool.main(["--dry-run", "--output", str(output)]) == 0, output.read_text()
    table = output.read_text()
    rows = rows_of(table)
    assert table.startswith("A dry run") and all(len(row) == 5 for row in rows)
    assert [part.title for part in tool.PARTS] == list(dict.fromkeys(row[0] for row in rows))[1:]
    assert rows[0][:2] == ["environment", "device"] and rows[0][2].startswith("CPU")
    values = {row[1]: row[2] for row in rows}
    assert "tests collected" in values["tests that need CUDA"]
    for beginning in ("losses: gradient", "step, groups of 4, two pieces, mean: memory", "labels", "training step, 32"):
        assert any(name.startswith(beginning) for name in values), beginning
    for beginning in ("times stock", "of it: backward", "neighbours of 400", "evaluation", "50 epochs"):
        assert any(name.startswith(beginning) for name in values), beginning
    assert sum("mAP of the" in name for name in values) == 5 and "failed" not in {row[4] for row in rows}


def part_that(program, seconds=HANG):
    """A part whose process runs a Python program; ``add(name)`` in it makes a row."""
    add = "import json, os, sys, time\n"
    add += "add = lambda *row: print(json.dumps(row), file=open(os.environ['GPU_CHECK_ROWS'], 'a'))\n"
    return [sys.executable, "-c", add + program], seconds


def test_a_part_that_fails_or_hangs_leaves_the_others_alone(tool, tmp_path, monkeypatch, capsys):
    child = "import subprocess; child = subprocess.Popen(['sleep', '100000'])\nadd('child', str(child.pid))\n"
    parts = [
        part_that("add('before', '1 ms'); os._exit(7)"),
        part_that(f"{child}time.sleep(100000)", seconds=1),
        part_that("add('bad', '0.3', '≤ 0.1', False); add('good | fine', '0.1', '', True); print('into the log')"),
    ]
    monkeypatch.setattr(tool, "PARTS", [tool.Part(f"part {n}", seconds, tuple) for n, (_, seconds) in enumerate(parts)])
    monkeypatch.setattr(tool, "command", lambda number, args: parts[number - 1][0])
    output = tmp_path / "logs/table.md"
    assert tool.main(["--dry-run", "--output", str(output)]) == 1
    rows = rows_of(output.read_text().replace("\\|", "/"))
    rows = [row for row in rows if row[0] != "environment" and row[1] != "seconds of this part"]
    assert [row[:3] for row in rows] == [
        ["part 0", "before", "1 ms"],
        ["part 0", "part 0", "FAILED: the process ended with exit code 7; log.txt shows where"],
        ["part 1", "child", rows[2][2]],
        ["part 1", "part 1", "FAILED: not done after 1 s; log.txt shows where"],
        ["part 2", "bad", "0.3"],
        ["part 2", "good / fine", "0.1"],
    ]
    assert [row[4] for row in rows] == ["", "**failed**", "", "**failed**", "**failed**", "passed"]
    assert "FAILED: part 0, part 1, bad" in capsys.readouterr().out
    assert "into the log" in (tmp_path / "logs/table/log.txt").read_text()
    state = f"/proc/{rows[2][2]}/stat"
    assert not os.path.exists(state) or open(state).read().split()[2] == "Z"  # what the part had started has ended


def test_an_error_is_the_row_of_its_check_and_the_next_one_follows(tool, capsys):
    def first(setting):
        """the first"""
        yield tool.Row("half", "done")
        raise ValueError("no\nluck")

    def second(setting):
        """the second"""
        yield tool.Row("whole", str(setting.batch), "", True)

    rows = []
    tool.run_checks((first, second), tool.DRY, rows.append)
    assert [(row.name, row.value, row.passed) for row in rows] == [
        ("half", "done", None),
        ("the first", "FAILED: ValueError: no luck", False),
        ("whole", "32", True),
    ]
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("error, passed", [(0.0, True), (5e-5, True), (2e-4, False), (float("nan"), False)])
def test_results_of_the_device_are_judged_by_the_largest_difference(tool, error, passed):
    from benchmarks import gpu_results

    def compute(device):
        computed.append(device)
        one = torch.tensor([1.0, -10.0])
        return {"numbers": [one, one * 1e-6 + (10 * error if len(computed) > 1 else 0)]}

    computed = []
    (row,) = gpu_results._compared(tool.DRY, "title", compute)
    assert row.passed is passed and row.name == "title: numbers" and computed == ["cpu", "cpu"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_what_can_be_done(tool, tmp_path, capsys):
    assert tool.main(["--output", str(tmp_path / "table.md")]) == 2
    error = capsys.readouterr().err
    assert "no CUDA GPU" in error and "--dry-run" in error and not list(tmp_path.iterdir())


def test_small_sizes_judge_no_score(tool):
    assert tool._judged(tool.DRY, False) is None and tool._judged(tool.FULL, False) is False
