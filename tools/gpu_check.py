#!/usr/bin/env python3
"""Checks and measures this program on a CUDA GPU, in minutes and without network: make gpu-check

Five parts, each in a process of its own with a limit of time, so that one that fails, hangs or breaks the device leaves the
others alone: the CUDA tests; results beside the CPU's; whole trainings; speed and memory; several GPUs. Writes one table
in Markdown (docs/howto/gpu.md explains it) and a log beside it. The exit code is 1 if anything has failed. A figure that
misses its aim is no failure: aims are those of one H100.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Callable, Iterable, Iterator, NamedTuple

import torch
from benchmarks.gpu import DRY, FULL, Row, Setting

TOOLS = Path(__file__).resolve().parent
REPOSITORY = TOOLS.parent
# Of the demonstration on the CPU, six runs (docs/benchmarks.md); another device rounds otherwise, as another seed does.
DEMO_MAP, DEMO_DEVIATION, DEVIATIONS = 96.89, 0.27, 5
# Points of mAP, after eight steps: on the CPU four seeds in two precisions were 3.0 points apart at most (docs/howto/gpu.md).
TINY_TOLERANCE = 5.0
# A test that has been so long at it hangs. Unit: seconds.
LONGEST_TEST = 60


class Part(NamedTuple):
    """One process: its checks are made when it has started, because they import what the others need not."""

    title: str
    seconds: int  # the limit; together the eight minutes that all may take
    checks: Callable[[], Iterable[Callable[[Setting], Iterator[Row]]]]


def results() -> tuple:
    from benchmarks import gpu_results

    return gpu_results.checks()


def speed() -> tuple:
    from benchmarks import gpu_speed

    return gpu_speed.checks()


def cuda_tests(setting: Setting) -> Iterator[Row]:
    """the CUDA tests"""
    yield from _pytest("tests that need CUDA", "cuda", setting)


def _pytest(name: str, marker: str, setting: Setting) -> Iterator[Row]:
    """Runs the tests with this marker; without a GPU it says which there are."""
    files = [str(p) for p in sorted((REPOSITORY / "tests").rglob("test_*.py")) if f"mark.{marker}" in p.read_text()]
    words = [sys.executable, "-m", "pytest", "-m", marker, "-q", "-p", "no:cacheprovider", *files]
    if setting.device == "cpu":
        words.append("--collect-only")
    done = subprocess.run([*words, f"--timeout={LONGEST_TEST}"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    last = (done.stdout.strip().splitlines() or ["pytest said nothing"])[-1].strip("= ")
    yield Row(name, last, "no failure", done.returncode == 0)


def tiny_runs(setting: Setting) -> Iterator[Row]:
    """training on the tiny data set"""
    _draw("tiny")
    reference = _trained("ISE/synthetic_tiny.yml", "cpu", False, setting)
    yield Row("mAP of the tiny run, cpu, float32", f"{reference:.2f} %")
    bar = f"{reference:.2f} ± {TINY_TOLERANCE:g} %"
    for mixed in (False, True)[setting.device == "cpu" :]:
        score = _trained("ISE/synthetic_tiny.yml", setting.device, mixed, setting)
        passed = _judged(setting, abs(score - reference) <= TINY_TOLERANCE)
        yield Row(f"mAP of the tiny run, {_named(setting.device, mixed)}", f"{score:.2f} %", bar, passed)


def demo_runs(setting: Setting) -> Iterator[Row]:
    """training on the demonstration's data set"""
    _draw(setting.demo_data)
    allowed = DEVIATIONS * DEMO_DEVIATION
    for mixed in (False, True):
        score = _trained("ISE/synthetic_mobilenetv2.yml", setting.device, mixed, setting)
        name = f"mAP of the demonstration, {_named(setting.device, mixed)}"
        bar = f"{DEMO_MAP} ± {allowed:.2f} %"
        yield Row(name, f"{score:.2f} %", bar, _judged(setting, abs(score - DEMO_MAP) <= allowed))


def several_gpus(setting: Setting) -> Iterator[Row]:
    """several GPUs"""
    on_cuda = setting.device == "cuda"
    if on_cuda and torch.cuda.device_count() < 2:
        yield Row("two processes with NCCL", "one GPU: not run")
        return
    if on_cuda:
        yield from _pytest("tests of two processes with NCCL", "nccl", setting)
    _draw("tiny")
    output, count = _run_folder("torchrun"), 2 if on_cuda else 1
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    words += [str(TOOLS / "train_net.py")]
    subprocess.run(
        words + _training_words("ISE/synthetic_tiny.yml", setting.device, False, setting, output), check=True
    )
    score = json.loads((output / "results.json").read_text())["final"]["mAP"]
    yield Row(f"mAP of the tiny run, torchrun, {count} × {setting.device}", f"{score:.2f} %", "it ends", True)


PARTS = (
    Part("CUDA tests", 75, lambda: (cuda_tests,)),
    Part("results beside the CPU's", 75, results),
    Part("trainings", 150, lambda: (tiny_runs, demo_runs)),
    Part("speed and memory", 130, speed),
    Part("several GPUs", 50, lambda: (several_gpus,)),
)


def check(args: argparse.Namespace) -> int:
    """Runs the parts and writes the table; returns the exit code."""
    if not (args.dry_run or torch.cuda.is_available()):
        print("error: PyTorch finds no CUDA GPU here; --dry-run shows on the CPU that the checks work", file=sys.stderr)
        return 2
    setting = DRY if args.dry_run else FULL
    work = args.output.with_suffix("")
    work.mkdir(parents=True, exist_ok=True)
    log, found = work / "log.txt", [("environment", row) for row in environment(setting)]
    log.write_text("")
    for number in args.parts:
        part = PARTS[number - 1]
        print(f"part {number}: {part.title} (at most {part.seconds} s)", flush=True)
        start = time.perf_counter()
        rows = run_part(number, args, work, log)
        took = f"{time.perf_counter() - start:.0f} s"
        for row in [*rows, Row("seconds of this part", took, f"≤ {part.seconds} s")]:
            found.append((part.title, row))
            print(
                "   ", *(word for word in (row.name + ":", row.value, row.bar and f"({row.bar})") if word), flush=True
            )
        args.output.write_text(table(found, setting), encoding="utf-8")
    failed = [row.name for _, row in found if row.passed is False]
    print(f"{args.output}; log: {log}")
    print(f"FAILED: {', '.join(failed)}" if failed else "nothing failed")
    return 1 if failed else 0


def run_part(number: int, args: argparse.Namespace, work: Path, log: Path) -> list[Row]:
    """The rows of a part, made in a process of its own; what becomes of it otherwise is a row as well."""
    part, rows = PARTS[number - 1], work / f"part{number}.jsonl"
    rows.write_text("")
    environment = {**os.environ, "FASTREID_DATASETS": str(work / "datasets"), "GPU_CHECK_ROWS": str(rows)}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), str(TOOLS), os.environ.get("PYTHONPATH", "")])
    with log.open("a") as stream:
        print(f"\n=== part {number}: {part.title}", file=stream, flush=True)
        process = subprocess.Popen(
            command(number, args), cwd=work, env=environment, stdout=stream, stderr=stream, start_new_session=True
        )
        try:
            code = process.wait(part.seconds)
            ended = f"the process ended with exit code {code}"
        except subprocess.TimeoutExpired:
            code, ended = 1, f"not done after {part.seconds} s"
        finally:
            _end_group(process)
    found = [Row(*json.loads(line)) for line in rows.read_text().splitlines()]
    return found + ([Row(part.title, f"FAILED: {ended}; {log.name} shows where", "", False)] if code else [])


def command(number: int, args: argparse.Namespace) -> list[str]:
    """What runs a part."""
    return [sys.executable, __file__, "--part", str(number), *(["--dry-run"] if args.dry_run else [])]


def _end_group(process: subprocess.Popen) -> None:
    """Ends whatever a part has started and not ended."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def run_checks(checks: Iterable, setting: Setting, write: Callable[[Row], None]) -> None:
    """All checks of a part, in its own process; an error is the row of that check, and the next one follows."""
    for function in checks:
        try:
            for row in function(setting):
                write(row)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            write(Row(function.__doc__.strip(), f"FAILED: {reason}", "", False))


def table(found: Iterable, setting: Setting) -> str:
    """One Markdown table of (part, Row)."""
    lines = ["| part | what | value | bar or aim | |", "| --- | --- | --- | --- | --- |"]
    before = None
    for part, row in found:
        verdict = {None: "", True: "passed", False: "**failed**"}[row.passed]
        cells = [part if part != before else "", row.name, row.value, row.bar, verdict]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        before = part
    head = "A dry run on the CPU with small sizes: no figure means anything.\n\n" if setting is DRY else ""
    return head + "\n".join(lines) + "\n"


def environment(setting: Setting) -> Iterator[Row]:
    """Device and versions."""
    if setting.device == "cuda":
        device = torch.cuda.get_device_properties(0)
        memory = f"{device.total_memory / 2**30:.0f} GiB, {torch.cuda.device_count()} of them"
        yield Row("device", f"{device.name}, {memory}")
        yield Row("compute capability", f"{device.major}.{device.minor}")
        yield Row("driver", _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"))
    else:
        yield Row("device", f"CPU, {torch.get_num_threads()} threads")
    yield Row("PyTorch, CUDA, cuDNN", f"{torch.__version__}, {torch.version.cuda}, {torch.backends.cudnn.version()}")
    yield Row("Python, system", f"{platform.python_version()}, {platform.system()}, {os.cpu_count()} cores")
    yield Row("commit", _said("git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"))
    yield Row("date", datetime.date.today().isoformat())


def _said(*words: str) -> str:
    try:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _draw(size: str) -> None:
    """Draws a data set where the readers look for it, unless it is there."""
    subprocess.run([sys.executable, str(REPOSITORY / "projects/SyntheticPersons/make.py"), "--size", size], check=True)


def _run_folder(name: str) -> Path:
    folder = Path(os.environ["FASTREID_DATASETS"]).parent / re.sub(r"\W+", "_", name)
    shutil.rmtree(folder, ignore_errors=True)  # a finished run is not trained over
    return folder


def _training_words(config: str, device: str, mixed: bool, setting: Setting, output: Path) -> list[str]:
    words = ["--config-file", str(REPOSITORY / "configs" / config), "MODEL.DEVICE", device, "OUTPUT_DIR", str(output)]
    words += ["SOLVER.AMP.ENABLED", str(mixed), "ISE.HOOKS", "('EpochSummary',)"]
    if setting.epochs:
        epochs, steps = setting.epochs
        words += ["SOLVER.MAX_EPOCH", str(epochs), "SOLVER.STEPS", "[1]", "ISE.ITERS_PER_EPOCH", str(steps)]
        words += ["DATASETS.NAMES", "('SyntheticPersonsTiny',)", "DATASETS.TESTS", "('SyntheticPersonsTiny',)"]
        words += ["SOLVER.IMS_PER_BATCH", "16", "DATALOADER.NUM_INSTANCE", "4", "DATALOADER.NUM_WORKERS", "0"]
        words += ["INPUT.SIZE_TRAIN", "[64, 32]", "INPUT.SIZE_TEST", "[64, 32]", "ISE.PSEUDO_LABEL.K1", "10"]
    return words


def _trained(config: str, device: str, mixed: bool, setting: Setting) -> float:
    """mAP, in percent, of a whole training in this process."""
    import train_net

    output = _run_folder(f"{config.partition('/')[2].partition('.')[0]} {device} {'mixed' if mixed else 'float32'}")
    code = train_net.main(_training_words(config, device, mixed, setting, output))
    if code:
        raise RuntimeError(f"the training ended with exit code {code}; {output}/log.txt")
    return json.loads((output / "results.json").read_text())["final"]["mAP"]


def _named(device: str, mixed: bool) -> str:
    return f"{device}, {'mixed precision' if mixed else 'float32'}"


def _judged(setting: Setting, passed: bool):
    """Small sizes prove nothing."""
    return None if setting is DRY else passed


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("logs/gpu_check.md"), help="file of the table")
    numbers = range(1, len(PARTS) + 1)
    parser.add_argument("--parts", type=int, nargs="+", choices=numbers, default=list(numbers), help="default: all")
    parser.add_argument("--dry-run", action="store_true", help="small sizes on the CPU: shows that the checks work")
    parser.add_argument("--part", type=int, choices=numbers, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.part is None:
        args.output = args.output.resolve()
        return check(args)

    def write(row: Row) -> None:
        with open(os.environ["GPU_CHECK_ROWS"], "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    run_checks(PARTS[args.part - 1].checks(), DRY if args.dry_run else FULL, write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
