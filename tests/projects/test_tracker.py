"""The generated clip, and the counting of identity switches."""

import sys

import numpy as np
import pytest
from helpers import REPOSITORY


@pytest.fixture(scope="module")
def project():
    """The project's two modules, which import one another as scripts do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "projects/tracker"))
        import clip
        import track

        yield clip, track
        for name in ("clip", "track"):
            del sys.modules[name]


def test_same_seed_same_clip(project):
    clip, _ = project
    one, two, other = (list(clip.make_clip(seed, people=3, frames=4)) for seed in (5, 5, 6))
    assert all(np.array_equal(a.picture, b.picture) and a.boxes == b.boxes for a, b in zip(one, two))
    assert not np.array_equal(one[0].picture, other[0].picture)


def test_boxes_are_on_people(project):
    clip, _ = project
    frames = list(clip.make_clip(3, people=4, frames=6))
    empty = list(clip.make_clip(3, people=0, frames=1))[0].picture.astype(int)
    inside, outside = [], []
    for frame in frames:
        assert len(set(frame.people)) == len(frame.people) <= 4 and len(frame.boxes) == len(frame.people)
        changed = np.abs(frame.picture.astype(int) - empty).mean(axis=2)
        mask = np.zeros(changed.shape, bool)
        for left, top, width, height in frame.boxes:
            mask[max(0, round(top)) : round(top + height), max(0, round(left)) : max(0, round(left + width))] = True
        inside.append(changed[mask].mean())
        outside.append(changed[~mask].mean())
    assert min(inside) > 2 * max(outside)


def test_hidden_people_are_not_detected(project):
    clip, _ = project
    rng = np.random.default_rng(0)
    behind = clip._Walker(clip.sample_identity(1, 1), 1, sum(clip.PILLAR) / 2, 200.0, 3.0, 0.0)
    free = clip._Walker(clip.sample_identity(1, 2), 2, 100.0, 200.0, 3.0, 0.0)
    away = clip._Walker(clip.sample_identity(1, 3), 3, 200.0, 200.0, 3.0, 0.0, pause=2)
    seen = [clip._detections([behind, free, away], rng)[1] for _ in range(50)]
    assert {person for people in seen for person in people} == {2}


@pytest.mark.parametrize(
    "taken, switches",
    [
        ([], 0),
        ([[(1, "a")], [(1, "a")], []], 0),
        ([[(1, "a")], [], [(1, "b")]], 1),
        ([[(1, "a"), (2, "b")], [(1, "b"), (2, "a")]], 2),
        ([[(1, "a")], [(1, "b")], [(1, "a")]], 2),
    ],
)
def test_switches(project, taken, switches):
    assert project[1].count_switches(taken) == switches


def test_crops_stay_inside_the_picture(project):
    clip, track = project
    frame = clip.Frame(np.zeros((20, 30, 3), np.uint8), [[-5, -5, 10, 10], [25, 15, 10, 10], [40, 40, 5, 5]], [1, 2, 3])
    assert [crop.shape for crop in track.crops_of(frame)] == [(5, 5, 3), (5, 5, 3), (1, 1, 3)]
