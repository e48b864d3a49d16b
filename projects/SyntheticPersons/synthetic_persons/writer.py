"""The files: draws a plan in parallel and puts it on disk, all of it or nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Callable

import numpy as np
from PIL import Image
from tqdm import tqdm

from .cameras import MAX_CAMERAS, STANDARD_STRENGTH, Camera, make_cameras, to_jpeg
from .crops import JUNK_MISS, Walk, draw_background, draw_person, sample_walk
from .people import sample_identity
from .plan import DISTRACTOR_PID, FOLDERS, JUNK_PID, ImagePlan, make_plan
from .streams import Stream, stream

GENERATOR_VERSION = 4  # raise it whenever the same seed gives other pictures
STAMP = "synthetic_persons.json"
BACKGROUND_SHARE = 0.6  # share of distractors without a (whole) person; the others show strangers
PROGRESS_DELAY_S = 3.0
CHUNK = 32  # pictures handed to a worker at a time
FEW_IMAGES = 600  # drawn here by default: starting workers would take longer


class DatasetExistsError(ValueError):
    """The output folder holds something other than the data set asked for."""


@dataclass(frozen=True)
class WrittenDataset:
    """Where a data set lies, how many pictures each folder holds, and whether it was there before."""

    path: Path
    counts: dict[str, int]
    reused: bool
    seconds: float


def folder_name(size: str) -> str:
    """The folder under the data root that holds a size: ``synthetic_persons_<size>``."""
    return f"synthetic_persons_{size}"


def draw_planned(
    item: ImagePlan, seed: int = 0, cameras: int = MAX_CAMERAS, strength: float = STANDARD_STRENGTH
) -> bytes:
    """Draws one planned picture.

    Args:
        item: a picture of `make_plan(size, seed, cameras)`.
        seed: the data set's seed.
        cameras: the data set's number of cameras.
        strength: of the cameras, see `make_cameras`.

    Returns:
        The bytes of a JPEG file, 64 wide and 128 high; they depend on the arguments only.
    """
    camera = _cameras(seed, cameras, strength)[item.camera - 1]
    rng = stream(seed, Stream.IMAGE, _kind(item), item.person, item.camera, item.index)
    if item.pid == DISTRACTOR_PID:
        image = _draw_distractor(item, camera, rng, seed)
    else:
        walk = sample_walk(camera, stream(seed, Stream.TRACK, item.person, item.camera))
        image = _draw_walker(item, camera, walk, rng, seed)
    return to_jpeg(image, camera)


@lru_cache(maxsize=8)
def _cameras(seed: int, count: int, strength: float) -> tuple[Camera, ...]:
    return make_cameras(seed, count, strength)


def _kind(item: ImagePlan) -> int:
    return {DISTRACTOR_PID: 1, JUNK_PID: 2}.get(item.pid, 0)


def _draw_walker(item: ImagePlan, camera: Camera, walk: Walk, rng: np.random.Generator, seed: int) -> Image.Image:
    identity = sample_identity(seed, item.person)
    pose = walk.pose_at(item.index % item.count, item.count, camera, rng)
    miss = float(rng.uniform(*JUNK_MISS)) if item.pid == JUNK_PID else 0.0
    place = walk.place + walk.speed * item.index
    return draw_person(identity, camera, pose.view, rng, phase=pose.phase, walk=walk, place=place, seed=seed, miss=miss)


def _draw_distractor(item: ImagePlan, camera: Camera, rng: np.random.Generator, seed: int) -> Image.Image:
    if rng.random() < BACKGROUND_SHARE:
        return draw_background(camera, rng, seed)
    walk = sample_walk(camera, rng)
    return draw_person(
        sample_identity(seed, item.person, Stream.STRANGER), camera, walk.view, rng, walk=walk, seed=seed
    )


def write_dataset(
    output: str | os.PathLike[str],
    size: str = "demo",
    seed: int = 0,
    cameras: int = MAX_CAMERAS,
    workers: int | None = None,
    progress: bool = True,
    strength: float = STANDARD_STRENGTH,
) -> WrittenDataset:
    """Writes a data set in Market-1501's layout, or reuses the one that is there.

    The pictures are drawn into a temporary folder beside `output`, which takes its name only when all is written: a
    run that is stopped leaves nothing under that name.

    Args:
        output: folder of the data set itself.
        size: "tiny", "demo" or "market".
        seed: 0 or more; other seeds have other people, scenes and cameras.
        cameras: 2 to 6.
        workers: processes that draw; by default the number of usable cores, one for a small set. The files do not
            depend on it.
        progress: whether to show a progress bar when it takes more than some seconds.
        strength: of the cameras, see `make_cameras`.

    Raises:
        ValueError: unknown size, negative seed, cameras, workers or strength out of range.
        DatasetExistsError: `output` exists and was not written with these parameters.
    """
    started = time.monotonic()
    output = Path(output)
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be 1 or more, got {workers}")
    plan = make_plan(size, seed, cameras)
    make_cameras(seed, cameras, strength)  # names a strength out of range before a folder is made
    stamp = {
        "size": size,
        "seed": seed,
        "cameras": cameras,
        "camera_strength": strength,
        "generator_version": GENERATOR_VERSION,
        "counts": count_images(plan),
    }
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        _check_existing(output, stamp)
        return WrittenDataset(output, stamp["counts"], True, time.monotonic() - started)
    output.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        draw = partial(draw_planned, seed=seed, cameras=cameras, strength=strength)
        _write_images(scratch, plan, draw, workers or _default_workers(len(plan)), progress)
        (scratch / STAMP).write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
        scratch.chmod(0o755)  # mkdtemp makes it private
        reused = not _take_name(scratch, output, stamp)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return WrittenDataset(output, stamp["counts"], reused, time.monotonic() - started)


def count_images(plan: list[ImagePlan]) -> dict[str, int]:
    """How many pictures of a plan are for training, query, gallery (with distractors, without junk) and junk."""
    folders = Counter(item.folder for item in plan if item.pid != JUNK_PID)
    names = dict(zip(FOLDERS, ("train", "query", "gallery")))
    counts = {names[folder]: folders[folder] for folder in FOLDERS}
    counts["junk"] = sum(item.pid == JUNK_PID for item in plan)
    return counts


def _take_name(scratch: Path, output: Path, stamp: dict) -> bool:
    """Renames the finished folder; False if another process has meanwhile written the same data set."""
    try:
        os.replace(scratch, output)
    except OSError:
        if not output.exists():
            raise
        _check_existing(output, stamp)
        return False
    return True


def _check_existing(output: Path, stamp: dict) -> None:
    advice = "remove it or choose another --output"
    try:
        found = json.loads((output / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DatasetExistsError(f"{output} exists and is not a finished synthetic data set: {advice}") from None
    # stamps of older programs know no strength
    found = {"camera_strength": STANDARD_STRENGTH, **(found if isinstance(found, dict) else {})}
    differing = [key for key in stamp if found.get(key) != stamp[key]]
    if differing:
        key = differing[0]
        raise DatasetExistsError(f"{output} was written with {key} {found.get(key)}, not {stamp[key]}: {advice}")


def _default_workers(images: int) -> int:
    if images <= FEW_IMAGES:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_images(
    root: Path, plan: list[ImagePlan], draw: Callable[[ImagePlan], bytes], workers: int, progress: bool
) -> None:
    for folder in FOLDERS:
        (root / folder).mkdir()
    write = partial(_write_image, str(root), draw)
    bar = partial(tqdm, total=len(plan), unit="img", desc="drawing", delay=PROGRESS_DELAY_S, disable=not progress)
    if workers == 1:
        for item in bar(plan):
            write(item)
        return
    # "spawn" works alike on every system and does not copy the threads of the calling process.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for _ in bar(pool.imap_unordered(write, plan, chunksize=CHUNK)):
            pass


def _write_image(root: str, draw: Callable[[ImagePlan], bytes], item: ImagePlan) -> None:
    Path(root, item.folder, item.name).write_bytes(draw(item))
