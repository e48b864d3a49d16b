"""Random keys, values and nestings: a configuration, or one line that says why not."""

import random
import string

import pytest
import yaml
from helpers import CONFIGS, load_tool
from reliability_runs import times

from ise_plugin.config import get_cfg, load_cfg
from ise_plugin.errors import UsageError

CASES = times(500, 10_000)
RUNS = times(3, 40)


def keys_of(node, prefix="") -> list:
    found = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        found += [name, *keys_of(value, name + ".")] if isinstance(value, dict) else [name]
    return found


KEYS = keys_of(get_cfg())
WORDS = ["auto", "cpu", "none", "", "True", "1e-4", "-1", "0", "nan", "inf", "()", "[]", "{}", "[1,", "('a',)", "None"]


def random_value(rng, depth=0):
    kind = rng.randrange(12 if depth < 3 else 8)
    if kind == 0:
        return rng.choice([0, 1, -1, 2, 7, 10**6, -(10**9), 2**63, 10**30])
    if kind == 1:
        return rng.choice([0.0, -0.5, 0.5, 1.0, 1e-300, 1e300, float("nan"), float("inf"), -float("inf")])
    if kind == 2:
        return rng.choice([True, False, None])
    if kind in (3, 4):
        return rng.choice(WORDS)
    if kind == 5:
        return "".join(rng.choice(string.printable + "äß\u2028\x00") for _ in range(rng.randrange(12)))
    if kind == 6:
        return rng.choice(
            ["2024-01-01", "0x10", "0b1", "1_000", "'" * 3, "(" * 200, "9" * 5000, "lambda: 0", "__import__('os')"]
        )
    if kind == 7:
        return rng.randrange(-3, 300)
    if kind in (8, 9):
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {random_key(rng, 0.5): random_value(rng, depth + 1) for _ in range(rng.randrange(3))}


def random_key(rng, known=0.8):
    if rng.random() < known:
        key = rng.choice(KEYS)
        return key if rng.random() < 0.8 else rng.choice(key.split("."))
    return rng.choice([random_value(rng, 3), "_BASE_", "ISE..K1", ".", "ISE.", "a" * 300])


def nested(key, value):
    """A dotted key as nested groups, as a file has it."""
    if not isinstance(key, str) or "." not in key:
        return {key: value}
    first, rest = key.split(".", 1)
    return {first: nested(rest, value)}


def random_file(rng, folder) -> str:
    content = {}
    for _ in range(rng.randrange(1, 4)):
        key, value = random_key(rng), random_value(rng)
        try:
            content.update(nested(key, value) if rng.random() < 0.7 else {key: value})
        except TypeError:  # a list is no key
            continue
    text = yaml.safe_dump(rng.choice([content, content, content, content, random_value(rng)]), allow_unicode=True)
    if rng.random() < 0.1:
        place = rng.randrange(len(text))
        text = (
            text[:place]
            + rng.choice(["\t", "{", "&a *a", "!!python/object/apply:os.system [ls]", "\x00", ": :"])
            + text[place:]
        )
    path = folder / "fuzz.yml"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return str(path)


@pytest.mark.timeout(0)
def test_any_configuration_is_read_or_refused_in_one_line(tmp_path):
    rng = random.Random(0)
    accepted = 0
    for number in range(CASES):
        by_file = rng.random() < 0.5
        file = random_file(rng, tmp_path) if by_file else str(CONFIGS / "ISE/synthetic_tiny.yml")
        opts = (
            []
            if by_file
            else [text for _ in range(rng.randrange(1, 3)) for text in (random_key(rng), random_value(rng))]
        )
        try:
            cfg = load_cfg(file, [value if isinstance(value, str) else str(value) for value in opts])
        except UsageError as error:
            assert len(str(error).splitlines()) == 1, (number, str(error))
        else:
            accepted += 1
            assert cfg.dump()
    print(f"random configurations: {CASES}, {accepted} accepted, {CASES - accepted} refused in one line, 0 tracebacks")
    assert 0 < accepted < CASES


@pytest.mark.timeout(0)
def test_a_run_with_an_accepted_configuration_runs_or_is_refused_in_one_line(tiny_dataset, tmp_path, capfd):
    rng = random.Random(1)
    codes = {0: 0, 1: 0, 2: 0}
    short = "SOLVER.MAX_EPOCH 1 ISE.ITERS_PER_EPOCH 1 ISE.HOOKS () DATASETS.TESTS () MODEL.DEVICE cpu".split()
    while sum(codes.values()) < RUNS:
        key, value = rng.choice(KEYS), str(random_value(rng, 3))
        if key.startswith(UNTRIED) or key in short:
            continue
        folder = tmp_path / str(sum(codes.values()))
        arguments = [
            "--config-file",
            str(CONFIGS / "ISE/synthetic_tiny.yml"),
            *short,
            "OUTPUT_DIR",
            str(folder),
            key,
            value,
        ]
        try:
            load_cfg(arguments[1], arguments[2:])
        except UsageError:
            continue
        code = load_tool("train_net").main(arguments)
        out, err = capfd.readouterr()
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in out + err and len(errors) == (code != 0), (key, value, err)
        codes[code] += 1
    print(
        f"runs with random values that are read: {RUNS}, {codes[0]} trained, {codes[2]} refused in one line, "
        f"{codes[1]} ended by an unforeseen error in one line, 0 tracebacks"
    )


# where a random number would only make the run long or the machine full
UNTRIED = ("OUTPUT_DIR", "SOLVER.MAX_EPOCH", "SOLVER.MAX_ITER", "INPUT.SIZE", "ISE.ITERS", "DATASETS", "MODEL.DEVICE")
