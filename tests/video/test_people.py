"""Crops into people, held to what the tracks say."""

import csv
import json

import numpy as np

from ise_plugin.data.sightings import Sighting
from ise_plugin.video.crops import BOX_COLUMNS, BOXES
from ise_plugin.video.people import Nearest, group_crops, seen_together, tracked_boxes


def write_boxes(folder, rows):
    """rows: (frame, track); ten frames a second."""
    folder.mkdir(parents=True)
    with open(folder / BOXES, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(BOX_COLUMNS)
        writer.writerows([frame, frame / 10, track, 1, 2, 3, 4, 1.0] for frame, track in rows)
    (folder / "source.json").write_text(json.dumps({"digest": None, "camera": folder.name, "crops": []}))


def unit_rows(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_the_nearest_crop_in_time_tells_of_a_box():
    random = np.random.default_rng(0)
    tracks, times = random.integers(0, 3, 40), random.random(40)
    nearest = Nearest(tracks.tolist(), times.tolist(), list(range(40)))
    for track, time in zip(random.integers(0, 4, 60), random.random(60) * 1.4 - 0.2):
        own = np.flatnonzero(tracks == track)
        expected = own[np.abs(times[own] - time).argmin()] if len(own) else None
        assert nearest.of(int(track), float(time)) == expected


def test_tracks_are_seen_together_where_a_frame_has_both(tmp_path):
    frames = [(1, 0), (1, 1), (2, 0), (3, 2), (3, 0), (4, 1), (9, 5)]
    write_boxes(tmp_path / "a", frames)
    write_boxes(tmp_path / "b", [(1, 0), (1, 2)])
    sightings = [Sighting("c", str(track), name, 0.1) for name in "ab" for track in (0, 1, 2)]  # track 5 has no crop
    units = np.array([7, 3, 5, 1, 2, 0])
    assert seen_together(units, sightings, str(tmp_path)).tolist() == [[0, 1], [3, 7], [5, 7]]
    assert [(row.frame, row.track) for row in tracked_boxes(str(tmp_path / "a"))] == frames


def test_two_in_one_frame_are_two_people_however_alike(tmp_path):
    """Three people in two recordings; the first two look the same, and are in one frame of the first recording."""
    random = np.random.default_rng(0)
    looks = np.eye(16)[[0, 0, 1]]
    rows, sightings, truth = [], [], []
    for name in ("a", "b"):
        write_boxes(tmp_path / name, [(1 + 10 * i + 4 * t * (name == "b"), t) for i in range(8) for t in range(3)])
        for track in range(3):
            rows.append(looks[track] + 0.02 * random.standard_normal((8, 16)))
            for i in range(8):
                sightings.append(Sighting(name, str(track), name, (1 + 10 * i + 4 * track * (name == "b")) / 10))
                truth.append(track)
    vectors, truth = unit_rows(np.concatenate(rows)), np.array(truth)
    paths = [f"{i}.jpg" for i in range(len(vectors))]
    found = group_crops(vectors, sightings, paths, str(tmp_path))
    tracks = [
        set(found.labels[[s.sequence == n and int(s.track) == t for s in sightings]]) for n in "ab" for t in range(3)
    ]
    assert all(len(own) == 1 for own in tracks) and -1 not in found.labels  # a track is one person
    assert len(set().union(*tracks[:3])) == 3  # three in one frame
    assert tracks[2] == tracks[5] and tracks[2].isdisjoint(tracks[3] | tracks[4])
    assert (found.likely > 0).all()


def test_a_track_alone_is_somebody_if_it_is_long_enough(tmp_path):
    random = np.random.default_rng(1)
    sizes = [12, 12, 5, 2]
    tracks = np.repeat(np.arange(4), sizes)
    vectors = unit_rows(np.eye(40)[tracks] + random.standard_normal((31, 40)) * 0.02)
    together = [(400, track) for track in range(4)]  # so that nobody is joined with anybody
    write_boxes(tmp_path / "a", [*((10 * i, track) for i, track in enumerate(tracks)), *together])
    sightings = [Sighting("a", str(track), "a", float(i)) for i, track in enumerate(tracks)]
    found = group_crops(vectors, sightings, [f"{i}.jpg" for i in range(31)], str(tmp_path))
    assert [sorted(set(found.labels[tracks == t])) for t in range(4)] == [[0], [1], [2], [-1]]
