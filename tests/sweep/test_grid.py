"""Grids: which runs there are, what their folders are called, and what a folder with another run gets."""

import pytest
import yaml
from helpers import CONFIGS

from ise_plugin.config import load_cfg
from ise_plugin.errors import UsageError
from ise_plugin.sweep import Grid, read_grid
from ise_plugin.sweep.grid import DONE, NEW, STARTED, config_name

TINY = str(CONFIGS / "ISE/synthetic_tiny.yml")
DEMO = str(CONFIGS / "ISE/synthetic_mobilenetv2.yml")
K, BETA = "ISE.SUPPORT.NUM_NEIGHBORS", "ISE.LABEL_PRESERVING.WEIGHT"


def folders(settings, output="out"):
    return [[job.folder.removeprefix(f"{output}/") for job in setting.jobs.values()] for setting in settings]


def test_a_grid_is_every_combination_with_every_seed(tmp_path):
    axes = {"part": {"baseline": {"ISE.SUPPORT.ENABLED": False, BETA: 0.0}, "both": {}}, K: {"1": {K: 1}, "2": {K: 2}}}
    settings = Grid({"tiny": TINY}, axes, seeds=[0, 3]).settings("out")
    assert [list(s.title.values()) for s in settings] == [
        ["baseline", "1"],
        ["baseline", "2"],
        ["both", "1"],
        ["both", "2"],
    ]
    assert folders(settings)[0] == [
        f"ISE_synthetic_tiny,LABEL_PRESERVING.WEIGHT=0.0,SUPPORT.ENABLED=False/seed_{seed}" for seed in (0, 3)
    ]
    job = settings[1].jobs[3]
    assert (job.asked["SEED"], job.asked[K], job.asked[BETA], job.asked["ISE.SUPPORT.ENABLED"]) == (3, 2, 0.0, False)
    cfg = load_cfg(TINY, job.options)
    assert cfg.OUTPUT_DIR == job.folder and cfg.ISE.SUPPORT.NUM_NEIGHBORS == 2


def test_the_same_point_of_two_grids_is_the_same_run():
    more = Grid({"tiny": TINY}, {K: {"1": {K: 1}, "2": {K: 2}, "3": {K: "3"}}}).settings("out")
    other = Grid({"tiny": TINY}, {BETA: {"0.1": {BETA: 0.1}, "1e-2": {BETA: "1e-2"}}}).settings("out")
    assert folders(more) == [
        ["ISE_synthetic_tiny/seed_0"],
        ["ISE_synthetic_tiny,SUPPORT.NUM_NEIGHBORS=2/seed_0"],
        ["ISE_synthetic_tiny,SUPPORT.NUM_NEIGHBORS=3/seed_0"],
    ]
    # the defaults K 1 and beta 0.1 are one setting
    assert folders(other) == [["ISE_synthetic_tiny/seed_0"], ["ISE_synthetic_tiny,LABEL_PRESERVING.WEIGHT=0.01/seed_0"]]


def test_values_that_make_no_folder_get_names_of_their_own():
    key = "DATASETS.FOLDER.ROOT"
    grid = Grid({"tiny": TINY}, {key: {v: {key: v} for v in ("a/b", "a b", "x" * 500)}})
    names = [folder for (folder,) in folders(grid.settings("out"))]
    assert len(set(names)) == 3 and all(len(name) < 200 and name.count("/") == 1 and " " not in name for name in names)


def test_config_files_side_by_side_are_an_axis():
    grid = read_grid(configs=[TINY, DEMO], axes=[[K, "1", "2"]], seeds=[1], metrics=["ARI"])
    settings = grid.settings("out")
    assert [tuple(s.title.values()) for s in settings] == [
        ("ISE_synthetic_tiny", "1"),
        ("ISE_synthetic_tiny", "2"),
        ("ISE_synthetic_mobilenetv2", "1"),
        ("ISE_synthetic_mobilenetv2", "2"),
    ]
    assert config_name("projects/BUC/configs/synthetic.yml") == "BUC_synthetic"
    assert grid.metrics == ["ARI"]
    assert list(read_grid(configs=[TINY]).settings("out")[0].title.items()) == [("config", "ISE_synthetic_tiny")]


def test_two_files_of_one_name_are_refused(tmp_path):
    twins = [tmp_path / side / "ISE/synthetic_tiny.yml" for side in "ab"]
    for path in twins:
        path.parent.mkdir(parents=True)
        path.write_text(f"_BASE_: {TINY}\n")
    with pytest.raises(UsageError, match="two config files"):
        read_grid(configs=map(str, twins))


GRID = f"""
config: {{tiny: mine.yml}}
seeds: [0, 1]
keys: {{MODEL.DEVICE: cpu}}
axes:
  {K}: [1, 2]
  part:
    without: {{{BETA}: 0}}
    with: {{}}
"""


def test_a_grid_file_and_words_that_change_it(tmp_path):
    (tmp_path / "mine.yml").write_text(f"_BASE_: {TINY}\n")
    (tmp_path / "grid.yml").write_text(GRID)
    path = str(tmp_path / "grid.yml")
    grid = read_grid(path)
    assert grid.configs == {"tiny": str(tmp_path / "mine.yml")} and grid.seeds == [0, 1]
    assert len(grid.settings("out")) == 4
    changed = read_grid(path, seeds=[7], opts=["SOLVER.MAX_EPOCH", "1"], axes=[["ISE.MEMORY.MOMENTUM", "0.1", "0.2"]])
    settings = changed.settings("out")
    assert len(settings) == 8 and list(settings[0].jobs) == [7]
    asked = settings[-1].jobs[7].asked
    assert (asked["MODEL.DEVICE"], asked["SOLVER.MAX_EPOCH"], asked["ISE.MEMORY.MOMENTUM"]) == ("cpu", 1, 0.2)


@pytest.mark.parametrize(
    "content, words",
    [
        ("configs: [a.yml]", ["configs", "nearest valid one is config"]),
        ("axes: {}", ["no config file"]),
        (f"config: {TINY}\nseeds: [-1]", ["seeds", "-1"]),
        (f"config: {TINY}\nseeds: [a]", ["seeds", "'a'"]),
        (f"config: {TINY}\naxes: [1]", ["axes"]),
        (f"config: {TINY}\naxes: {{{K}: 3}}", [K, "needs values"]),
        (f"config: {TINY}\naxes: {{{K}: []}}", [K, "needs values"]),
        (f"config: {TINY}\nmetrics: [map]", ["map", "nearest is mAP"]),
        (f"config: {TINY}\naxes: {{ISE.SUPPORT.NEIGHBORS: [1]}}", ["unknown key", K]),
        (f"config: {TINY}\nkeys: {{{K}: 0}}", [K, "at least 1"]),
        ("config: nowhere.yml", ["nowhere.yml"]),
        ("config: [", ["line 1", "not valid YAML"]),
    ],
)
def test_mistakes_are_named_before_anything_runs(tmp_path, content, words):
    (tmp_path / "grid.yml").write_text(content)
    with pytest.raises(UsageError) as error:
        read_grid(str(tmp_path / "grid.yml")).settings(str(tmp_path))
    assert all(word in str(error.value) for word in words), error.value


def test_an_odd_word_is_refused():
    with pytest.raises(UsageError, match="'SEED' has no partner"):
        read_grid(configs=[TINY], opts=["SEED"])


def test_what_a_run_has_come_to(tmp_path):
    job = Grid({"tiny": TINY}, seeds=[2]).settings(str(tmp_path))[0].jobs[2]
    folder = tmp_path / "ISE_synthetic_tiny/seed_2"
    assert job.state() == NEW
    folder.mkdir(parents=True)
    written = yaml.safe_load(load_cfg(TINY, ["SEED", "2"]).dump())
    # a run resolves its device, and where it writes makes no difference
    written["MODEL"]["DEVICE"], written["OUTPUT_DIR"] = "cpu", "elsewhere"
    (folder / "config.yaml").write_text(yaml.safe_dump(written))
    (folder / "results.json").write_text("{}")  # written after every epoch
    assert job.state() == STARTED
    (folder / "model_final.pth").touch()
    assert job.state() == DONE


@pytest.mark.parametrize("key, there", [("SEED", 3), ("SOLVER.MAX_EPOCH", 9)])
def test_a_run_of_other_keys_is_named(tmp_path, key, there):
    job = Grid({"tiny": TINY}, seeds=[2]).settings(str(tmp_path))[0].jobs[2]
    folder = tmp_path / "ISE_synthetic_tiny/seed_2"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(load_cfg(TINY, ["SEED", "2", key, str(there)]).dump())
    with pytest.raises(UsageError, match=rf"seed_2 holds a run of other keys \({key} is {there}, not 2\)"):
        job.state()
