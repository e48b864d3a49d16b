"""What ONNX detectors of the YOLO, YOLOX and RT-DETR families want and give, told apart by their outputs' names and shapes."""

from typing import Callable, Mapping, NamedTuple, Optional

import numpy as np
from PIL import Image

Outputs = Mapping[str, np.ndarray]
# (left, top, right, bottom) in pixels of the network's input (n, 4) and scores (n,), of one class
Decoded = tuple[np.ndarray, np.ndarray]

GREY = 114  # around the frame, in all YOLO programs
# Cells that a YOLO predicts from: one in this many pixels, of each level; without and with a coarser, and a finer one (P6, P2).
_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32))
_YOLOV5_ANCHORS = 3  # boxes that YOLOv5 and YOLOv7 predict in each cell; their successors predict one
_YOLOX_OUTPUT = "output"  # others that give as many rows, such as YOLOv6, want other pixels
_BOX, _SCORED_BOX = 4, 5  # numbers of a box, and of a box with an objectness
_FINAL = 6  # of a box with score and class
# Logits of DETR and its other heirs, with and without "no object": of COCO's 91 numbers, by which a person is 1. They want other
# pixels too.
_COCO_NUMBERS = (91, 92)


class Family(NamedTuple):
    """How one family is fed and read.

    Attributes:
        name: of its programs.
        decode: (outputs, (height, width) of the input, number of the class) -> boxes and scores of that class.
        fit: how a frame is brought to the input's size: "centre" or "corner" (its shape kept, grey around it), or "stretch".
        divisor: of pixels 0..255.
        bgr: whether blue comes first.
        overlapping: whether it gives one object several boxes.
    """

    name: str
    decode: Callable[[Outputs, tuple, int], Decoded]
    fit: str = "centre"
    divisor: float = 255.0
    bgr: bool = False
    overlapping: bool = True


def family_of(outputs: Outputs, size: tuple, about: Mapping[str, str]) -> Optional[Family]:
    """The family with such outputs for one frame; None where no family has them.

    Args:
        outputs: by their names.
        size: (height, width) of the network's input, in pixels.
        about: metadata of the file; Ultralytics' says the task.
    """
    shapes = {name: values.shape for name, values in outputs.items()}
    if {"labels", "boxes", "scores"} == set(shapes):
        return Family("RT-DETR, D-FINE", _final_parts, "stretch", overlapping=False)
    for logits in ("logits", "pred_logits"):
        if (
            {logits, "pred_boxes"} <= set(shapes)
            and len(shapes[logits]) == 3
            and shapes[logits][2] not in _COCO_NUMBERS
        ):
            return Family("RT-DETR, D-FINE (transformers)", _logits, "stretch", overlapping=False)
    rows = [name for name, shape in shapes.items() if len(shape) == 3 and shape[0] == 1]
    if len(rows) != 1:
        return None
    _, count, width = shapes[rows[0]]
    cells = [sum((size[0] // stride) * (size[1] // stride) for stride in strides) for strides in _STRIDES]
    if width in cells and count > _BOX:
        return Family("YOLOv8, v9, v11", _columns)
    if count in [_YOLOV5_ANCHORS * cell for cell in cells] and width > _SCORED_BOX:
        return Family("YOLOv5, v7", _with_objectness)
    if count == cells[0] and width > _SCORED_BOX and rows[0] == _YOLOX_OUTPUT:
        return Family("YOLOX", _yolox, "corner", divisor=1.0, bgr=True)
    if len(shapes) > 1 or count in cells or about.get("task", "detect") != "detect":
        return None
    found = outputs[rows[0]][0]
    # of any frame RT-DETR gives boxes, in parts of the input; the others give pixels, or zeros where there is nothing
    if not (width > _BOX and 0 <= found[:, :_BOX].min() and 0 < found[:, :_BOX].max() <= 1):
        final = Family("YOLOv10, or with its suppression inside", _final_rows, overlapping=False)
        return final if width == _FINAL else None
    # the sixth number is a class, or, in older files, the score of the second of two
    chosen = width == _FINAL and (found[:, 5] == np.round(found[:, 5])).all()
    return Family("RT-DETR (Ultralytics)", _final_fractions if chosen else _fractions, "stretch", overlapping=False)


def _corners(boxes: np.ndarray) -> np.ndarray:
    """(n, 4): centre and size -> left, top, right, bottom."""
    centres, halves = boxes[:, :2], boxes[:, 2:4] / 2
    return np.concatenate([centres - halves, centres + halves], axis=1)


def _only(outputs: Outputs) -> np.ndarray:
    """The one output of rows, (rows, columns)."""
    return next(values[0] for values in outputs.values() if values.ndim == 3)


def _columns(outputs: Outputs, size: tuple, number: int) -> Decoded:
    rows = _only(outputs).T
    return _corners(rows), rows[:, _BOX + number]


def _with_objectness(outputs: Outputs, size: tuple, number: int) -> Decoded:
    rows = _only(outputs)
    return _corners(rows), rows[:, _BOX] * rows[:, _SCORED_BOX + number]


def _yolox(outputs: Outputs, size: tuple, number: int) -> Decoded:
    """Centres as parts of a cell from its corner, sizes as logarithms of cells; or in pixels, if exported so."""
    rows, corners, strides = _only(outputs), [], []
    for stride in _STRIDES[0]:
        y, x = np.mgrid[: size[0] // stride, : size[1] // stride]
        corners.append(np.stack([x.ravel(), y.ravel()], axis=1) * stride)
        strides.append(np.full((x.size, 1), stride))
    corner, cell = np.concatenate(corners), np.concatenate(strides)
    # the file does not say which: pixels go with the cells over the whole picture, parts of a cell stay near 0
    if np.abs(rows[:, :2] - corner).mean() < np.abs(rows[:, :2]).mean():
        boxes = rows[:, :4]
    else:
        boxes = np.concatenate([corner + rows[:, :2] * cell, np.exp(rows[:, 2:4]) * cell], axis=1)
    return _corners(boxes), rows[:, _BOX] * rows[:, _SCORED_BOX + number]


def _final_rows(outputs: Outputs, size: tuple, number: int) -> Decoded:
    rows = _only(outputs)
    rows = rows[rows[:, 5] == number]
    return rows[:, :4], rows[:, 4]


def _final_parts(outputs: Outputs, size: tuple, number: int) -> Decoded:
    chosen = outputs["labels"][0] == number
    return outputs["boxes"][0][chosen], outputs["scores"][0][chosen]


def _fractions(outputs: Outputs, size: tuple, number: int) -> Decoded:
    rows = _only(outputs)
    return _corners(rows) * _pixels(size), rows[:, _BOX + number]


def _final_fractions(outputs: Outputs, size: tuple, number: int) -> Decoded:
    rows = _only(outputs)
    rows = rows[rows[:, 5] == number]
    return _corners(rows) * _pixels(size), rows[:, 4]


def _logits(outputs: Outputs, size: tuple, number: int) -> Decoded:
    logits = outputs["logits" if "logits" in outputs else "pred_logits"][0][:, number]
    return _corners(outputs["pred_boxes"][0]) * _pixels(size), 1 / (1 + np.exp(-logits.astype(np.float64)))


def _pixels(size: tuple) -> np.ndarray:
    return np.array([*size[::-1], *size[::-1]], np.float32)


class Placed(NamedTuple):
    """Where a frame lies in the network's input, in its pixels, and how large the frame is itself, in its own."""

    left: int
    top: int
    width: int
    height: int
    frame_width: int
    frame_height: int

    def to_frame(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) in pixels of the input -> float32, in pixels of the frame and inside it."""
        scale = np.array([self.frame_width / self.width, self.frame_height / self.height] * 2)
        limits = np.array([self.frame_width, self.frame_height] * 2)
        moved = (boxes - np.array([self.left, self.top] * 2)) * scale
        return np.clip(moved, 0, limits).astype(np.float32)


def prepared(frame: np.ndarray, family: Family, size: tuple) -> tuple[np.ndarray, Placed]:
    """A frame (H, W, 3), uint8, RGB, as the family wants it: (1, 3, height, width) float32; and where it lies there."""
    (height, width), (frame_height, frame_width) = size, frame.shape[:2]
    scale = min(height / frame_height, width / frame_width)
    inner = (width, height)
    if family.fit != "stretch":
        inner = max(1, round(frame_width * scale)), max(1, round(frame_height * scale))
    left, top = ((width - inner[0]) // 2, (height - inner[1]) // 2) if family.fit == "centre" else (0, 0)
    picture = np.full((height, width, 3), GREY, np.uint8)
    resized = Image.fromarray(frame).resize(inner, Image.Resampling.BILINEAR)
    picture[top : top + inner[1], left : left + inner[0]] = np.asarray(resized)
    if family.bgr:
        picture = picture[..., ::-1]
    pixels = picture.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(family.divisor)
    return pixels, Placed(left, top, *inner, frame_width, frame_height)
