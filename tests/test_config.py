"""Keys, files, values: what is read and what is refused, in one line that names the culprit."""

import pickle

import numpy as np
import pytest
import yaml
from fastreid.config import get_cfg as get_fastreid_cfg
from helpers import CONFIGS, PROJECTS

from ise_plugin.config import (
    check_values,
    flat,
    get_cfg,
    load_cfg,
    own_settings,
    resolve_config_file,
    unread_keys,
    watched,
)
from ise_plugin.errors import UsageError
from ise_plugin.modeling.build import build_model
from ise_plugin.registry import CLUSTERER, HOOK, SAMPLER, build, registered

RUNS = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.glob("*/*.yml"))


def write(path, text):
    path.write_text(text)
    return str(path)


def refusal(*arguments):
    with pytest.raises(UsageError) as caught:
        load_cfg(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_fastreids_defaults_stay_as_they_are():
    ours, theirs = get_cfg(), get_fastreid_cfg()
    assert {key for key in ours if key not in theirs} == {"SEED", "ISE"}
    leaves = flat(ours)  # groups of fastreid's may hold keys of ours beside its own
    assert all(leaves[key] == value for key, value in flat(theirs).items())


@pytest.mark.parametrize("name", RUNS)
def test_every_config_file_loads(name):
    cfg = load_cfg(str(CONFIGS / name))
    assert cfg.MODEL.META_ARCHITECTURE == "ISE" and cfg.MODEL.LOSSES.NAME == ("ISELoss",)


def test_constants_of_the_paper_for_market1501():
    cfg = load_cfg(str(CONFIGS / "ISE/market_r50.yml"))
    assert (cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.DEPTH) == ("build_resnet_backbone", "50x")
    assert cfg.MODEL.BACKBONE.LAST_STRIDE == 1 and cfg.MODEL.HEADS.POOL_LAYER == "GlobalAvgPool"
    assert list(cfg.INPUT.SIZE_TRAIN) == list(cfg.INPUT.SIZE_TEST) == [256, 128]
    assert (cfg.INPUT.FLIP.PROB, cfg.INPUT.PADDING.SIZE, cfg.INPUT.REA.PROB) == (0.5, 10, 0.5)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_INSTANCE) == (256, 16)
    assert (cfg.ISE.ITERS_PER_EPOCH, cfg.SOLVER.MAX_EPOCH, list(cfg.SOLVER.STEPS)) == (400, 70, [30, 60])
    assert (cfg.SOLVER.OPT, cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY) == ("Adam", 3.5e-4, 5e-4)
    assert cfg.SOLVER.WEIGHT_DECAY_NORM == cfg.SOLVER.WEIGHT_DECAY_BIAS == 5e-4
    assert (cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.GAMMA) == (0, 0.1)
    assert (cfg.ISE.PSEUDO_LABEL.EPS, cfg.ISE.PSEUDO_LABEL.MIN_SAMPLES) == (0.4, 4)
    assert (cfg.ISE.PSEUDO_LABEL.K1, cfg.ISE.PSEUDO_LABEL.K2, cfg.ISE.PSEUDO_LABEL.PERIOD) == (30, 6, 1)
    assert (cfg.ISE.MEMORY.MOMENTUM, cfg.ISE.MEMORY.UPDATE, cfg.ISE.MEMORY.TEMPERATURE) == (0.2, "hard", 0.05)
    assert (cfg.ISE.LABEL_PRESERVING.WEIGHT, cfg.ISE.LABEL_PRESERVING.TEMPERATURE) == (0.1, 0.6)
    assert (cfg.ISE.SUPPORT.ENABLED, cfg.ISE.SUPPORT.NUM_NEIGHBORS, cfg.ISE.SUPPORT.BASE_DEGREE) == (True, 1, 0.25)


def test_constants_of_the_paper_for_msmt17():
    cfg = load_cfg(str(CONFIGS / "ISE/msmt17_r50.yml"))
    assert (cfg.ISE.ITERS_PER_EPOCH, cfg.SOLVER.MAX_EPOCH, list(cfg.SOLVER.STEPS)) == (400, 50, [20, 40])
    assert (cfg.ISE.PSEUDO_LABEL.EPS, cfg.ISE.MEMORY.MOMENTUM, cfg.ISE.MEMORY.UPDATE) == (0.7, 0.1, "mean")
    assert cfg.ISE.LABEL_PRESERVING.WEIGHT == 0.01


def test_command_line_comes_after_file_comes_after_base(tmp_path):
    write(tmp_path / "base.yml", "SEED: 1\nISE:\n  ITERS_PER_EPOCH: 11\n  MEMORY: {MOMENTUM: 0.5}\n")
    child = write(tmp_path / "child.yml", "_BASE_: base.yml\nSEED: 2\nISE: {ITERS_PER_EPOCH: 12}\n")
    cfg = load_cfg(child, ["SEED", "3"])
    assert (cfg.SEED, cfg.ISE.ITERS_PER_EPOCH, cfg.ISE.MEMORY.MOMENTUM) == (3, 12, 0.5)


def test_the_packages_own_config_is_found_by_name_where_no_such_file_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_cfg("ISE/folder.yml") == load_cfg(str(CONFIGS / "ISE/folder.yml"))
    over = write(tmp_path / "own.yml", "_BASE_: ISE/folder.yml\nSEED: 5\n")
    assert (load_cfg(over).SEED, load_cfg(over).DATASETS.NAMES) == (5, ("Folder",))
    (tmp_path / "ISE").mkdir()
    write(tmp_path / "ISE/folder.yml", "SEED: 6\n")
    assert resolve_config_file("ISE/folder.yml") == "ISE/folder.yml" and load_cfg(over).DATASETS.NAMES != ("Folder",)
    assert resolve_config_file("nowhere.yml", "here") == "here/nowhere.yml"


def test_values_are_read_as_the_type_of_their_default(tmp_path):
    path = write(
        tmp_path / "a.yml",
        'DATASETS:\n  NAMES: ("A", "B")\nSOLVER:\n  BASE_LR: 1e-4\n  STEPS: (3, 4)\nOUTPUT_DIR: 2024\n',
    )
    cfg = load_cfg(path, ["ISE.SUPPORT.BASE_DEGREE", "1", "DATASETS.TESTS", "()"])
    assert cfg.DATASETS.NAMES == ("A", "B") and cfg.DATASETS.TESTS == ()
    assert cfg.SOLVER.BASE_LR == 1e-4 and cfg.SOLVER.STEPS == [3, 4] and cfg.OUTPUT_DIR == "2024"
    assert isinstance(cfg.ISE.SUPPORT.BASE_DEGREE, float)


def test_unknown_key_in_a_file_names_file_key_and_nearest_key(tmp_path):
    base = write(tmp_path / "base.yml", "ISE: {PSEUDO_LABEL: {EPSS: 0.5}}\n")
    child = write(tmp_path / "child.yml", "_BASE_: base.yml\n")
    message = refusal(child)
    assert (
        base in message
        and "ISE.PSEUDO_LABEL.EPSS" in message
        and "nearest valid key is ISE.PSEUDO_LABEL.EPS" in message
    )


@pytest.mark.parametrize(
    "opts, words",
    [
        (["SOLVER.BASE_LEARNING", "1"], ["SOLVER.BASE_LEARNING", "SOLVER.BASE_LR"]),
        (["ISE.PSEUDO_LABEL.EPS", "'wide'"], ["ISE.PSEUDO_LABEL.EPS", "number or auto", "wide"]),
        (["SOLVER.MAX_EPOCH", "1.5"], ["SOLVER.MAX_EPOCH", "int", "1.5"]),
        (["ISE.SUPPORT.ENABLED", "1"], ["ISE.SUPPORT.ENABLED", "bool"]),
        (["ISE.MEMORY", "1"], ["ISE.MEMORY", "group of keys", "MOMENTUM"]),
        (["SEED.X", "1"], ["SEED.X", "unknown key"]),
        (["SEED"], ["SEED", "no partner"]),
        (["", "1"], ["unknown key"]),
    ],
)
def test_command_line_mistakes_are_named(opts, words):
    message = refusal(None, opts)
    assert "command line" in message and all(word in message for word in words), message


@pytest.mark.parametrize(
    "text, word",
    [
        ("ISE: [1, 2\n", "YAML"),
        ("- a\n- b\n", "list"),
        ("ISE: 3\n", "group of keys"),
        ("ISE: {}\n", "group of keys"),
        ("_BASE_: nowhere.yml\n", "nowhere.yml"),
        ("_BASE_: [a]\n", "_BASE_"),
        ("_BASE_: self.yml\n", "loop"),
        ("SEED: null\n", "SEED"),
        ("a: !!python/object/apply:os.system [true]\n", "YAML"),
    ],
)
def test_unusable_files_are_named(tmp_path, text, word):
    message = refusal(write(tmp_path / "self.yml", text))
    assert word in message and str(tmp_path) in message


def test_missing_file_and_binary_file_are_named(tmp_path):
    assert "nothere.yml" in refusal("nothere.yml")
    (tmp_path / "x.yml").write_bytes(bytes(range(128, 256)))
    assert "x.yml" in refusal(str(tmp_path / "x.yml"))


def test_a_number_that_may_be_a_word_is_neither():
    with pytest.raises(UsageError, match="ISE.PSEUDO_LABEL.EPS must be a number or auto, not 'autoo'"):
        load_cfg(str(CONFIGS / "Base-ISE.yml"), ["ISE.PSEUDO_LABEL.EPS", "autoo"])


def test_empty_file_is_the_defaults(tmp_path):
    assert load_cfg(write(tmp_path / "empty.yml", "")) == get_cfg()


@pytest.mark.parametrize(
    "key, values",
    [
        ("ISE.ITERS_PER_EPOCH", [0, -1]),
        ("ISE.SUPPORT.NUM_NEIGHBORS", [0, -2]),
        ("ISE.SUPPORT.BASE_DEGREE", [-0.1, float("nan")]),
        ("ISE.SUPPORT.SCHEDULE", ["linear"]),
        ("ISE.MEMORY.MOMENTUM", [-0.1, 1.0, float("nan")]),
        ("ISE.MEMORY.UPDATE", ["ori"]),
        ("MODEL.HEADS.NORM", ["bn"]),
        ("MODEL.BACKBONE.NORM", ["BatchNorm"]),
        ("ISE.MEMORY.TEMPERATURE", [0.0, float("inf")]),
        ("ISE.LABEL_PRESERVING.WEIGHT", [-1.0]),
        ("ISE.LABEL_PRESERVING.TEMPERATURE", [0.0]),
        ("ISE.PSEUDO_LABEL.PERIOD", [0]),
        ("ISE.PSEUDO_LABEL.K1", [0]),
        ("ISE.PSEUDO_LABEL.K2", [0]),
        ("ISE.PSEUDO_LABEL.EPS", [-0.4, 0.0, 1.0]),
        ("ISE.PSEUDO_LABEL.MIN_SAMPLES", [0]),
        ("SOLVER.MAX_EPOCH", [0]),
        ("SOLVER.IMS_PER_BATCH", [0, 30]),
        ("SOLVER.BASE_LR", [0.0]),
        ("SOLVER.ACCUMULATE", [0, 1000]),
        ("SOLVER.CHECKPOINT_PERIOD", [0]),
        ("DATALOADER.NUM_INSTANCE", [0]),
        ("DATALOADER.NUM_WORKERS", [-1]),
        ("TEST.IMS_PER_BATCH", [0]),
        ("TEST.EVAL_PERIOD", [-1]),
        ("INPUT.SIZE_TEST", [["a", "b"], [], [1, 2, 3]]),
        ("OUTPUT_DIR", [""]),
        ("DATASETS.NAMES", [()]),
    ],
)
def test_impossible_values_are_refused_by_key(key, values):
    for value in values:
        cfg = load_cfg(str(CONFIGS / "Base-ISE.yml"))
        *parents, leaf = key.split(".")
        node = cfg
        for parent in parents:
            node = node[parent]
        node[leaf] = value
        with pytest.raises(UsageError, match=key):
            check_values(cfg)


def test_eps_may_be_chosen_from_the_data_and_replaced_by_a_number(tmp_path):
    path = tmp_path / "auto.yml"
    path.write_text("ISE:\n  PSEUDO_LABEL:\n    EPS: auto\n")
    given = ["DATASETS.NAMES", "('Folder',)"]
    cfg = load_cfg(str(path), given)
    assert cfg.ISE.PSEUDO_LABEL.EPS == "auto"
    (tmp_path / "dumped.yml").write_text(cfg.dump())
    assert load_cfg(str(tmp_path / "dumped.yml")).ISE.PSEUDO_LABEL.EPS == "auto"
    for text, value in (("0.5", 0.5), ("auto", "auto")):
        assert load_cfg(str(path), [*given, "ISE.PSEUDO_LABEL.EPS", text]).ISE.PSEUDO_LABEL.EPS == value
    for text in ("automatic", "1.5", "None", "True"):
        with pytest.raises(UsageError, match="ISE.PSEUDO_LABEL.EPS"):
            load_cfg(str(path), [*given, "ISE.PSEUDO_LABEL.EPS", text])


def test_no_other_number_takes_the_word():
    with pytest.raises(UsageError, match="SOLVER.BASE_LR"):
        load_cfg(None, ["SOLVER.BASE_LR", "auto"])


@pytest.mark.parametrize(
    "text, word",
    [
        ('_BASE_: "a\\0b"', "null byte"),
        ("SEED: 2024-99-99", "month"),
        ("SEED: " + "[" * 5000, "nested too deep|not valid YAML|recursion"),
    ],
)
def test_files_that_nobody_writes_are_refused_in_one_line(tmp_path, text, word):
    (tmp_path / "c.yml").write_text(text)
    with pytest.raises(UsageError, match=word) as caught:
        load_cfg(str(tmp_path / "c.yml"))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("value", ["9" * 30, "-" + "9" * 30, "0x" + "f" * 5000])
def test_numbers_that_no_program_can_hold_are_refused(value):
    with pytest.raises(UsageError, match="ISE.PSEUDO_LABEL.MIN_SAMPLES is a whole number of .* bits"):
        load_cfg(None, ["DATASETS.NAMES", "('x',)", "ISE.PSEUDO_LABEL.MIN_SAMPLES", value])


def test_literals_that_python_cannot_build_are_text():
    with pytest.raises(UsageError, match="SOLVER.STEPS must be of type"):
        load_cfg(None, ["SOLVER.STEPS", "{[]: 1}"])


def test_a_line_break_in_a_key_stays_on_the_line():
    with pytest.raises(UsageError) as caught:
        load_cfg(None, ["A\nB", "1"])
    assert len(str(caught.value).splitlines()) == 1


def test_files_to_import_are_relative_to_the_config_that_names_them(tmp_path, monkeypatch):
    (tmp_path / "project/configs").mkdir(parents=True)
    code = "from ise_plugin.registry import CLUSTERER\n\n\n@CLUSTERER.register()\nclass FromAFile: ...\n"
    path = tmp_path / "project/parts.py"
    path.write_text(code)
    base = write(
        tmp_path / "project/configs/base.yml", "_BASE_: ISE/market_r50.yml\nISE:\n  IMPORT: ('../parts.py',)\n"
    )
    child = write(tmp_path / "child.yml", "_BASE_: project/configs/base.yml\nSEED: 1\n")
    monkeypatch.setattr(CLUSTERER, "_obj_map", dict(CLUSTERER._obj_map))
    for file in (base, child, write(tmp_path / "dumped.yml", load_cfg(child).dump())):
        cfg = load_cfg(file)  # once more: the file is executed only once, or it would register the name twice
        assert cfg.ISE.IMPORT == (str(path),)
    assert "FromAFile" in CLUSTERER
    monkeypatch.chdir(tmp_path / "project")
    given = ["ISE.IMPORT", "('parts.py', 'json.tool')"]
    assert load_cfg("ISE/market_r50.yml", given).ISE.IMPORT == (str(path), "json.tool")


@pytest.mark.parametrize(
    "value, words",
    [
        ("('nowhere.py',)", ["nowhere.py is not there", "relative to the config file"]),
        ("('no_such_module',)", ["no_such_module cannot be imported", "PYTHONPATH"]),
        ("('broken.py',)", ["broken.py cannot be imported (ZeroDivisionError: division by zero)"]),
        ("(3,)", ["must be Python files or names of modules"]),
    ],
)
def test_what_cannot_be_imported_is_named_with_its_key(tmp_path, monkeypatch, value, words):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "broken.py", "1 / 0\n")
    for _ in range(2):  # a file that failed is tried again
        message = refusal("ISE/market_r50.yml", ["ISE.IMPORT", value])
        assert "ISE.IMPORT" in message and all(word in message for word in words), message


def test_settings_of_ones_own_have_defaults_and_refuse_what_is_misspelt():
    cfg = load_cfg("ISE/market_r50.yml", ["ISE.OWN.X.RATE", "1", "ISE.OWN.X.NAMES", "['a']"])
    settings = own_settings(cfg, "X", RATE=0.5, NAMES=(), OTHER="b")
    assert dict(settings) == {"RATE": 1.0, "NAMES": ("a",), "OTHER": "b"} and type(settings.RATE) is float
    assert dict(own_settings(cfg, "Y", RATE=0.5)) == {"RATE": 0.5}
    with pytest.raises(UsageError, match="ISE.OWN.X: unknown key NAMES; the nearest valid key is NAME"):
        own_settings(cfg, "X", RATE=0.5, NAME="")
    with pytest.raises(UsageError, match="ISE.OWN.X.NAMES must be of type float"):
        own_settings(cfg, "X", RATE=0.5, NAMES=0.5)


PROJECT_RUNS = sorted(p.relative_to(PROJECTS).as_posix() for p in PROJECTS.glob("*/configs/*.yml"))
# any network; the other parts are the config's
SMALL_NETWORK = """
    MODEL.DEVICE cpu MODEL.BACKBONE.NAME build_osnet_backbone MODEL.BACKBONE.DEPTH x0_25 MODEL.BACKBONE.FEAT_DIM 128
    MODEL.BACKBONE.PRETRAIN False
""".split()


def unread_by_parts(file, *opts):
    """What no part reads of a config, when everything is built that a run builds before its first step."""
    cfg = watched(load_cfg(str(file), [*SMALL_NETWORK, *opts]))
    settings = cfg.ISE.PSEUDO_LABEL
    heads = build_model(cfg).heads
    for name in (settings.HOOK, *cfg.ISE.HOOKS):
        build(HOOK, name, "HOOK", cfg)
    evidence = {"cameras": np.arange(800) % 3, "tracks": np.arange(800) // 4, "times": np.arange(800.0)}
    evidence["camera_names"] = ("SyntheticSource/1", "DukeMTMC/1", "Market1501/1")
    wanted = getattr(registered(SAMPLER, cfg.ISE.SAMPLER, "ISE.SAMPLER"), "wants", ())
    known = {name: evidence[name] for name in wanted}
    build(SAMPLER, cfg.ISE.SAMPLER, "ISE.SAMPLER", cfg, labels=np.arange(800) // 20, seed=0, **known)
    settings.K1, settings.PERIOD  # the engine reads them
    if heads.num_neighbors:
        cfg.ISE.SUPPORT.BASE_DEGREE, cfg.ISE.SUPPORT.SCHEDULE  # as well
    return unread_keys(cfg)


@pytest.mark.parametrize("name", RUNS)
def test_every_key_of_the_packages_configs_is_read(name):
    assert unread_by_parts(CONFIGS / name) == []


@pytest.mark.parametrize("name", PROJECT_RUNS)
def test_a_project_sets_no_key_itself_that_its_parts_do_not_read(name):
    own = yaml.safe_load((PROJECTS / name).read_text(encoding="utf-8"))
    assert set(unread_by_parts(PROJECTS / name)).isdisjoint(flat(own)), "inherited ones alone may be of no use"


def test_keys_that_no_part_reads_are_found_and_no_others():
    opts = ["MODEL.LOSSES.NAME", "('CameraProxyLoss',)", "ISE.CAMERAS.PROXY.TEMPERATURE", "0.2"]
    opts += ["ISE.MEMORY.TEMPERATURE", "0.1", "ISE.SUPPORT.BASE_DEGREE", "0.5", "ISE.OWN.X.Y", "1"]
    file = CONFIGS / "ISE/market_r50.yml"
    assert unread_by_parts(file, *opts) == ["ISE.SUPPORT.BASE_DEGREE", "ISE.MEMORY.TEMPERATURE", "ISE.OWN.X.Y"]
    opts[1] = "('ISELoss', 'CameraProxyLoss')"
    assert unread_by_parts(file, *opts) == ["ISE.OWN.X.Y"]


def test_copies_share_what_was_read_and_writing_everything_out_reads_nothing():
    cfg = load_cfg("ISE/msmt17_r50.yml")
    cfg.freeze()
    watching = watched(cfg)
    assert watching == cfg and watching.dump() == cfg.dump() and watching.is_frozen() and watched(watching) is watching
    before = unread_keys(watching)
    assert {"ISE.MEMORY.MOMENTUM", "ISE.MEMORY.UPDATE"} < set(before) and unread_keys(cfg) == []
    copy = watching.clone()
    copy.defrost()
    copy.ISE.MEMORY.MOMENTUM = 0.3
    assert watching.ISE.MEMORY.MOMENTUM == 0.1 and pickle.loads(pickle.dumps(watching)) == cfg
    assert set(before) - set(unread_keys(copy)) == {"ISE.MEMORY.MOMENTUM"}
