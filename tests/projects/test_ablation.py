"""The grids of the paper's tables: every run of theirs can be set up, and what they share is one run."""

import numpy as np
from helpers import REPOSITORY

from ise_plugin.method import DEGREE_SCHEDULES
from ise_plugin.sweep import read_grid

PROJECT = REPOSITORY / "projects/Ablation"
GRIDS = {path.stem: str(path) for path in (PROJECT / "grids").glob("*.yml")}


def settings_of(name, *configs):
    return read_grid(GRIDS[name], [str(PROJECT / "configs" / config) for config in configs]).settings("out")


def asked(setting, *keys):
    return [setting.jobs[0].asked[f"ISE.{key}"] for key in keys]


def test_the_four_rows_switch_one_part_each():
    keys = "SUPPORT.ENABLED", "SUPPORT.IN_CONTRAST", "LABEL_PRESERVING.WEIGHT"
    rows = {setting.title["part"]: asked(setting, *keys) for setting in settings_of("parts")}
    assert rows == {
        "baseline": [False, True, 0.0],
        "+ support samples": [True, True, 0.0],
        "+ label-preserving loss": [True, False, 0.1],
        "both (ISE)": [True, True, 0.1],
    }


def test_all_grids_have_the_papers_setting_in_common_and_three_seeds():
    assert len(GRIDS) == 6
    every = [setting for name in GRIDS for setting in settings_of(name)]
    folders = [{job.folder for job in setting.jobs.values()} for setting in every]
    assert {frozenset(setting.jobs) for setting in every} == {frozenset({0, 1, 2})}
    default = {f"out/ISE_synthetic_mobilenetv2/seed_{seed}" for seed in range(3)}
    assert folders.count(default) == len(GRIDS)
    # of 25 rows five repeat the default, and beta 0 is "+ support samples"
    assert len(every) == 25 and len(set.union(*folders)) == 3 * 19


def test_a_constant_degree_may_be_as_large_as_the_growing_one_on_average():
    growing, large, average = (asked(s, "SUPPORT.SCHEDULE", "SUPPORT.BASE_DEGREE") for s in settings_of("schedule"))
    assert growing == ["progressive", 0.25] and large == ["constant", 0.25] and average[0] == "constant"
    middles = (np.arange(100_000) + 0.5) / 100_000
    assert abs(DEGREE_SCHEDULES["progressive"](middles, 0.25).mean() - average[1]) < 1e-4


def test_photographs_have_the_same_number_of_steps_as_drawn_persons():
    steps = lambda setting: setting.jobs[0].asked["ISE.ITERS_PER_EPOCH"] * setting.jobs[0].asked["SOLVER.MAX_EPOCH"]
    photographs = settings_of("parts", "market_part.yml", "market_short.yml")
    assert {steps(setting) for setting in [*settings_of("parts"), *photographs]} == {480}
    assert {setting.jobs[0].asked["DATASETS.NAMES"][0] for setting in photographs} == {"Market1501"}
