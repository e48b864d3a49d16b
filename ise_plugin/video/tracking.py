"""Boxes of successive frames put together to tracks, by ByteTrack (Zhang et al., ECCV 2022) of the library ``trackers``."""

import importlib.util

import numpy as np

from ..errors import UsageError
from .boxes import NO_TRACK, Found
from .recordings import INSTALL

# What the tracker counts its patience in, 30 of these: a second, whatever the recording's own rate, which its times tell.
_FRAMES_PER_SECOND = 30.0


class Tracker:
    """Gives boxes the numbers of their tracks. It looks at places and times alone: who comes back after a second, or was hidden
    for longer, gets a new track, which the identities join again by looks.

    Raises:
        UsageError: the library is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("trackers") is None:
            raise UsageError(f"tracking needs the library trackers; install it with: {INSTALL}")
        from trackers import ByteTrackTracker

        # a box that was seen twice begins a track; short ones give no crops
        self._tracker = ByteTrackTracker(frame_rate=_FRAMES_PER_SECOND, minimum_consecutive_frames=1)

    def update(self, found: Found, time: float) -> Found:
        """The boxes of the next frame, at that time in seconds, with tracks; -1: in none."""
        import supervision

        detections = supervision.Detections(
            xyxy=found.corners, confidence=found.scores, data={"row": np.arange(len(found.scores))}
        )
        tracked = self._tracker.update(detections, timestamp=time)
        tracks = np.full(len(found.scores), NO_TRACK, np.int64)
        if len(tracked):
            tracks[np.asarray(tracked.data["row"], np.int64)] = np.asarray(tracked.tracker_id, np.int64)
        return found._replace(tracks=tracks)
