#!/usr/bin/env python3
"""A drawn world: people come and go in front of several drawn cameras; videos, boxes, and who is who.

python projects/tracker/world.py --output world

writes cam1.mp4, cam2.mp4, … with boxes/cam1.txt (MOT, no tracks: detections) and truth/cam1.txt (MOT, with people).
"""

import argparse
import sys
from pathlib import Path
from typing import Iterator, NamedTuple

import numpy as np
from clip import (
    FOOT_ROWS,
    OUTSIDE,
    PILLAR,
    SCENE_SIZE,
    SITE_SEED,
    SPEEDS,
    Frame,
    _detections,
    _paint,
    _Walker,
)
from PIL import ImageDraw
from synthetic_persons import make_cameras, sample_identity
from synthetic_persons.cameras import photograph
from synthetic_persons.scenes import scene

from ise_plugin.utils.command_line import run_command

FRAME_RATE = 10
PEOPLE, CAMERAS, SECONDS = 20, 3, 60
# Seconds that somebody is away between two visits.
AWAY = (4.0, 20.0)
# Bits a second of the videos: enough that clothes keep their colours.
BIT_RATE = 2_000_000


class Visit(NamedTuple):
    """A person crosses a camera's picture once: from which frame on, at which row of pixels, how fast (pixels a frame, the sign
    is the direction)."""

    person: int
    start: int
    foot: float
    speed: float

    @property
    def frames(self) -> int:
        """How long it takes."""
        return int(np.ceil((SCENE_SIZE[0] + 2 * OUTSIDE) / abs(self.speed)))


def plan(
    seed: int, people: int = PEOPLE, cameras: int = CAMERAS, frames: int = SECONDS * FRAME_RATE
) -> list[list[Visit]]:
    """The visits of each camera. Nobody is in front of two cameras at once; all come more than once if there is time."""
    rng = np.random.default_rng(seed)
    visits: list[list[Visit]] = [[] for _ in range(cameras)]
    for person in range(1, people + 1):
        start = int(rng.uniform(0, AWAY[1]) * FRAME_RATE)
        while start < frames:
            speed = float(rng.uniform(*SPEEDS) * rng.choice((-1.0, 1.0)))
            visit = Visit(person, start, float(rng.uniform(*FOOT_ROWS)), speed)
            visits[int(rng.integers(cameras))].append(visit)
            start += visit.frames + int(rng.uniform(*AWAY) * FRAME_RATE)
    return visits


def film(seed: int, camera: int, visits: list[Visit], frames: int) -> Iterator[Frame]:
    """What a camera, 1 to 6, sees; people are those of :func:`clip.make_clip`'s seed."""
    rng = np.random.default_rng([seed, camera])
    eye = make_cameras(SITE_SEED)[camera - 1]
    background = scene(SITE_SEED, camera, eye.scene)
    identities = {visit.person: sample_identity(seed, visit.person) for visit in visits}
    for number in range(frames):
        now = [visit for visit in visits if 0 <= number - visit.start < visit.frames]
        walkers = [_walker(visit, number, identities[visit.person]) for visit in now]
        walkers.sort(key=lambda walker: walker.foot)  # from far to near
        picture = background.copy()
        for walker in walkers:
            _paint(picture, walker, eye, rng)
        ImageDraw.Draw(picture).rectangle((PILLAR[0], 0, PILLAR[1], SCENE_SIZE[1]), fill=(120, 116, 110))
        yield Frame(np.asarray(photograph(picture, eye, rng)), *_detections(walkers, rng))


def _walker(visit: Visit, number: int, identity) -> _Walker:
    steps, heading = number - visit.start, float(np.sign(visit.speed))
    begin = -OUTSIDE if heading > 0 else SCENE_SIZE[0] + OUTSIDE
    phase = (steps * abs(visit.speed) / 45) % 1.0
    return _Walker(identity, visit.person, begin + steps * visit.speed, visit.foot, abs(visit.speed), phase, heading)


def write_world(
    output: Path, seed: int, people: int = PEOPLE, cameras: int = CAMERAS, seconds: float = SECONDS
) -> list[Path]:
    """Writes the videos, their boxes, and the truth; the videos."""
    import av

    frames = round(seconds * FRAME_RATE)
    for folder in ("boxes", "truth"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    videos = []
    for camera, visits in enumerate(plan(seed, people, cameras, frames), 1):
        videos.append(output / f"cam{camera}.mp4")
        boxes, truth = [], []
        with av.open(str(videos[-1]), "w") as container:
            stream = container.add_stream("libx264", rate=FRAME_RATE)
            stream.width, stream.height = (size // 2 * 2 for size in SCENE_SIZE)
            stream.pix_fmt, stream.bit_rate = "yuv420p", BIT_RATE
            for number, frame in enumerate(film(seed, camera, visits, frames), 1):
                picture = np.ascontiguousarray(frame.picture[: stream.height, : stream.width])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                for person, box in zip(frame.people, frame.boxes):
                    text = ",".join(f"{value:.1f}" for value in box)
                    boxes.append(f"{number},-1,{text},1,-1,-1,-1\n")
                    truth.append(f"{number},{person},{text},1,-1,-1,-1\n")
            container.mux(stream.encode(None))
        (output / "boxes" / f"cam{camera}.txt").write_text("".join(boxes))
        (output / "truth" / f"cam{camera}.txt").write_text("".join(truth))
    return videos


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description="Draw videos of people who come and go in front of several cameras.")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=31, help="of the people and their walks (default: 31)")
    parser.add_argument("--people", type=int, default=PEOPLE, help=f"how many (default: {PEOPLE})")
    parser.add_argument("--cameras", type=int, default=CAMERAS, help=f"1 to 6 (default: {CAMERAS})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of each video (default: {SECONDS})")

    def draw(args: argparse.Namespace) -> None:
        print(*write_world(args.output, args.seed, args.people, args.cameras, args.seconds), sep="\n")

    return run_command(parser, draw, argv)


if __name__ == "__main__":
    sys.exit(main())
