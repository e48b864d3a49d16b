"""Boxes of successive frames put together to tracks."""

import numpy as np
import pytest

from ise_plugin.video.boxes import NO_TRACK, Found
from ise_plugin.video.tracking import Tracker

pytest.importorskip("trackers")


def found(*boxes):
    corners = np.array([[x, 10, x + 20, 70] for x in boxes], np.float32).reshape(-1, 4)
    return Found(corners, np.ones(len(boxes), np.float32), np.full(len(boxes), NO_TRACK))


def test_people_keep_their_tracks_through_a_missed_frame_and_in_any_order():
    tracker, walks = Tracker(), []
    for step in range(8):
        boxes = [10 + 3 * step, 140 - 3 * step] if step % 2 else [140 - 3 * step, 10 + 3 * step]
        if step == 4:
            boxes = boxes[:1]  # the one who walks to the right is missed
        tracks = tracker.update(found(*boxes), step / 10).tracks.tolist()
        walks += [("right" if box == 10 + 3 * step else "left", track) for box, track in zip(boxes, tracks)]
    # a box that is seen for the first time has no track yet
    assert [track for _, track in walks[:2]] == [NO_TRACK] * 2
    assert len(set(walks[2:])) == 2 and len({track for _, track in walks[2:]} - {NO_TRACK}) == 2


def test_who_was_away_for_long_gets_a_new_track_and_nobody_is_nobody():
    tracker = Tracker()
    first = [tracker.update(found(10), time).tracks.tolist() for time in (0.0, 0.1)][1]
    assert tracker.update(found(), 0.2).tracks.tolist() == [] and first != [NO_TRACK]
    for step in range(3, 40):
        tracker.update(found(), step / 10)
    again = [tracker.update(found(10), time).tracks.tolist() for time in (4.0, 4.1)][1]
    assert again not in (first, [NO_TRACK])
