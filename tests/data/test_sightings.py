"""Sightings as arrays: numbering, sequences, tracks by several cameras, times that run backwards."""

import math

import numpy as np
import pytest

from ise_plugin.data.sightings import Sighting, arrays_of, tracks_that_run_backwards


def arrays(*sightings, paths=None):
    return arrays_of(paths or [f"{i:03d}.jpg" for i in range(len(sightings))], sightings)


def test_numbers_follow_the_names_and_unknown_is_no_number():
    found = arrays(Sighting("b", "t2", time=4), Sighting(), Sighting("a", "t1"), Sighting("b", time=2.5))
    assert found["cameras"].tolist() == [1, -1, 0, 1] and found["camera_names"] == ("a", "b")
    assert found["tracks"].tolist() == [1, -1, 0, -1] and found["track_names"] == ("t1", "t2")
    np.testing.assert_array_equal(found["times"], [4, math.nan, math.nan, 2.5])
    assert (found["cameras"].dtype, found["tracks"].dtype, found["times"].dtype) == (np.int64, np.int64, np.float64)


def test_no_order_of_the_images_changes_what_is_known():
    random = np.random.default_rng(0)
    sightings = [
        Sighting(
            f"c{random.integers(3)}", f"t{random.integers(6)}", f"s{random.integers(3)}", float(random.integers(99))
        )
        for _ in range(60)
    ]
    paths = [f"{s.time:03.0f}_{i}.jpg" for i, s in enumerate(sightings)]
    found, order = arrays_of(paths, sightings), random.permutation(60)
    again = arrays_of([paths[i] for i in order], [sightings[i] for i in order])
    for name, values in found.items():
        expected = values[order] if isinstance(values, np.ndarray) else values
        np.testing.assert_array_equal(again[name], expected)


def test_a_track_by_two_cameras_is_one_for_each(caplog):
    seen = [Sighting(camera, "7") for camera in ("x", "x", "y", None)] + [Sighting("x", "8"), Sighting(None, "8")]
    found = arrays(*seen)
    names = [found["track_names"][t] if t >= 0 else None for t in found["tracks"]]
    assert names == ["7 by x", "7 by x", "7 by y", None, "8", "8"]
    assert "1 tracks are by two cameras or more, 7: x, y for one" in caplog.text


def test_a_track_never_spans_sequences_whose_times_lie_apart():
    seen = [
        Sighting("c", "7", sequence, time) for sequence, time in (("s2", 5.0), ("s10", 1.0), ("s2", 9.0), (None, 3.0))
    ]
    found = arrays(*seen)
    assert len(set(found["tracks"])) == 3 and found["tracks"][0] == found["tracks"][2]
    none, second, later, tenth = (found["times"][i] for i in (3, 0, 2, 1))
    assert none == 3 and later - second == 4 and second - none > 5e5 and tenth - later > 5e5


def test_time_that_runs_backwards_is_unknown_for_its_track(caplog):
    seen = [Sighting("c", "good", time=t) for t in (1.0, 2.0, 2.0)] + [
        Sighting("c", "bad", time=t) for t in (1.0, 5.0, 4.0)
    ]
    found = arrays(*seen)
    np.testing.assert_array_equal(found["times"], [1, 2, 2, math.nan, math.nan, math.nan])
    assert found["tracks"].tolist() == [1, 1, 1, 0, 0, 0]
    assert "1 tracks have times that run backwards, bad for one; their times are unknown" in caplog.text


@pytest.mark.parametrize(
    "paths, places",
    [
        (["9.jpg", "10.jpg", "11.jpg"], [0, 2, 1]),  # the table is not in the order of time
        (["z.jpg", "m.jpg", "a.jpg"], [0, 1, 2]),  # names say nothing
        (["9.jpg", "10.jpg", "11.jpg"], [None, None, None]),  # natural order, not that of characters
    ],
)
def test_one_order_in_which_time_runs_forward_is_enough(paths, places, caplog):
    seen = [Sighting("c", "t", time=float(i), order=place) for i, place in enumerate(places)]
    assert arrays(*seen, paths=paths)["times"].tolist() == [0, 1, 2] and not caplog.records


def test_backwards_against_all_pairs_of_images():
    random = np.random.default_rng(3)
    for _ in range(50):
        tracks, order = random.integers(-1, 5, 20), random.permutation(20)
        times = np.where(random.random(20) < 0.2, np.nan, random.integers(0, 4, 20) + order // 3)
        expected = {
            tracks[i]
            for i in range(20)
            for j in range(20)
            if tracks[i] == tracks[j] >= 0 and order[i] < order[j] and times[i] > times[j]
        }
        assert tracks_that_run_backwards(tracks, times, order).tolist() == sorted(expected)
