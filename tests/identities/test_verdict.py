"""What is said of a run."""

import json

import pytest

from ise_plugin.config import load_cfg
from ise_plugin.identities.signs import Signs
from ise_plugin.identities.verdict import State, judge

CLEAN = Signs(None, None, 0.1, 0.5, 1.0)


def state(clustered, purity, groups=100):
    return State(groups, clustered, purity, 0.3)


def verdict_of(states, chosen=None, signs=CLEAN, **keys):
    opts = [text for key, value in keys.items() for text in (f"ISE.PSEUDO_LABEL.{key}", str(value))]
    return judge(states, chosen or max(states), signs, load_cfg(None, opts))


@pytest.mark.parametrize(
    "purity, people", [(0.85, "are probably people"), (0.7, "are people in part"), (0.5, "are probably not people")]
)
def test_groups_are_people_as_far_as_they_are_pure(purity, people):
    verdict = verdict_of({0: state(0.5, 0.5), 1: state(0.9, purity)})
    assert f"These groups {people}: of a group's images an estimated {purity:.0%} show one person." == verdict.lines[0]


def test_suspicions_weigh_more_than_purity():
    signs = Signs(0.95, 0.4, 0.6, 0.2, 0.1)
    verdict = verdict_of({1: state(0.9, 0.95)}, signs=signs)
    assert verdict.people == "probably not" and len(signs.suspicions(0)) == 3
    assert all(text in verdict.lines[0] for text in signs.suspicions(0).values())
    assert verdict_of({1: state(0.9, 0.95)}, signs=None).people == "probably"


@pytest.mark.parametrize(
    "after, word",
    [(state(0.8, 0.9), "improved"), (state(0.5, 0.8), "did not change"), (state(0.4, 0.6), "worsened")],
)
def test_training_is_compared_with_its_start(after, word):
    verdict = verdict_of({0: state(0.5, 0.8), 1: after})
    assert verdict.change.startswith(f"training {word} the groups: an estimated 40% of the images")
    assert verdict.change.endswith(f"and {after.right:.0%} are now")
    assert [row[1:] for row in verdict.rows[1:3]] == [
        ["50.0%", f"{after.clustered:.1%}"],
        ["0.80", f"{after.purity:.2f}"],
    ]


def test_a_start_that_is_not_known_is_not_spoken_of():
    verdict = verdict_of({2: state(0.5, 0.8), 3: state(0.6, 0.8)})
    assert verdict.change == "" and all(row[1] == "" for row in verdict.rows)
    assert "training" not in verdict.text


def test_the_chosen_epoch_and_why():
    verdict = verdict_of({0: state(0.2, 0.9), 1: state(0.9, 0.9), 2: state(0.9, 0.5)}, chosen=1)
    assert verdict.choice.startswith("epoch 1 of 2 was chosen") and verdict.choice.endswith("(81%; the last epoch 45%)")


@pytest.mark.parametrize(
    "states, keys, words",
    [
        ({0: state(0.5, 0.5), 1: state(0.9, 0.5)}, {}, "MODEL.BACKBONE.PRETRAIN_PATH"),
        ({0: state(0.9, 0.9), 1: state(0.8, 0.8)}, {}, "a smaller SOLVER.BASE_LR"),
        ({0: state(0.4, 0.9), 1: state(0.5, 0.9), 2: state(0.6, 0.9)}, {}, "SOLVER.MAX_EPOCH 4"),
        ({0: state(0.5, 0.9), 1: state(0.6, 0.9)}, {"MIN_SAMPLES": 4}, "ISE.PSEUDO_LABEL.MIN_SAMPLES 3"),
        ({0: state(0.5, 0.9), 1: state(0.6, 0.9)}, {"MIN_SAMPLES": 2}, "more epochs"),
        ({0: state(0.5, 0.9), 1: state(0.9, 0.9)}, {}, "ise-identities --min-confidence 0.8"),
    ],
)
def test_the_next_thing_to_try_fits_the_run(states, keys, words):
    verdict = verdict_of(states, **keys)
    assert words in verdict.advice and verdict.lines[-1] == f"Next: {verdict.advice}."
    assert "EPS" not in verdict.text


def test_the_verdict_is_json_and_text():
    verdict = verdict_of({0: state(0.5, 0.9), 1: state(0.9, 0.9)})
    content = json.loads(json.dumps(verdict.content))
    assert content["lines"] == verdict.lines and content["start"]["clustered"] == 0.5
    assert content["people"] == "probably" and content["chosen"] == {
        "groups": 100,
        "clustered": 0.9,
        "purity": 0.9,
        "separation": 0.3,
    }
    assert all(line in verdict.text for line in verdict.lines) and "untrained" in verdict.text
    assert verdict_of({1: state(0.9, 0.9)}).content["start"] is None
