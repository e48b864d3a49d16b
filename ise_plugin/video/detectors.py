"""People in a frame: by an ONNX detector, by a Python function, or, without either, by OpenCV's people detector."""

import ast
import logging
import os
from typing import Any, Callable, Optional, Union

import numpy as np

from ..errors import UsageError
from ..utils.files import shown
from ..utils.imports import import_file, import_module
from .detector_families import family_of, prepared

logger = logging.getLogger("fastreid.ise.video")

# A frame (H, W, 3), uint8, RGB -> boxes (n, 4), float32: left, top, right, bottom in pixels; and scores (n,), float32.
Detect = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

# The lowest score that is given out: that from which trackers of ByteTrack's kind use boxes (Zhang et al., ECCV 2022, section 3).
MIN_SCORE = 0.1
# Largest intersection over union of two boxes that are two people: Ultralytics' default, for people who stand close.
MAX_IOU = 0.7
# (height, width) in pixels of the input of a file that leaves them open and does not say; that of most exports.
_SIZE = (640, 640)
_PERSON = 0  # of COCO's 80 classes
_PERSON_NAMES = ("person", "pedestrian", "people", "human")
_KEY = "--detector"
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_ONNX_SUFFIX = ".onnx"
# OpenCV's detector looks for people of 64 x 128 pixels in the frame and its reductions: by this factor each (OpenCV's default),
# and in steps of as many pixels as it has cells.
_HOG_SCALE, _HOG_STEP = 1.05, (8, 8)


def build_detector(
    spec: Union[None, str, os.PathLike, Detect] = None, min_score: float = MIN_SCORE, max_iou: float = MAX_IOU
) -> Detect:
    """A function from a frame to the people in it.

    Args:
        spec: path of an ONNX file (YOLOv5, v7 to v11, YOLOX, RT-DETR, D-FINE, told apart by their outputs), the name
            ``module:function`` or ``file.py:function`` of a function that takes a frame and returns boxes and scores, such a
            function; or None for OpenCV's people detector, which is weak.
        min_score: boxes of a lower score are left out; of ONNX files only, in [0, 1].
        max_iou: largest intersection over union of two boxes of an ONNX file's output, in [0, 1].

    Returns:
        ``detect(frame)``: (H, W, 3), uint8, RGB -> boxes (n, 4), float32, left, top, right, bottom in pixels of the frame, and
        scores (n,), float32: in [0, 1] from ONNX files, distances to a margin from OpenCV.

    Raises:
        UsageError: a package or a file is missing, the file's outputs are those of no family here, the function cannot be
            imported, or returns something else.
    """
    if spec is None:
        return OpenCVPeople()
    if callable(spec):
        return _Checked(spec, getattr(spec, "__name__", type(spec).__name__))
    name = os.fspath(spec)
    if name.endswith(_ONNX_SUFFIX):
        return OnnxDetector(name, min_score, max_iou)
    module, colon, function = name.rpartition(":")
    if not (module and colon and function.isidentifier()):
        raise UsageError(
            f"{_KEY} {shown(name)} is neither an ONNX file nor module:function; export a network of another format to ONNX"
        )
    found = getattr((import_file if module.endswith(".py") else import_module)(module, _KEY), function, None)
    if not callable(found):
        raise UsageError(f"{_KEY} {shown(name)}: {shown(module)} has no function {function}")
    return _Checked(found, name)


class OnnxDetector:
    """A detector in an ONNX file, of a family of :func:`.detector_families.family_of`.

    Attributes:
        family: which it is; size: (height, width) of its input in pixels; person: number of the class that is kept.
    """

    def __init__(self, path: str, min_score: float = MIN_SCORE, max_iou: float = MAX_IOU):
        self._path, self._min_score, self._max_iou = shown(path), min_score, max_iou
        self._session = _session(path)
        about = self._session.get_modelmeta().custom_metadata_map
        images = [entry for entry in self._session.get_inputs() if len(entry.shape) == 4]
        others = [entry.name for entry in self._session.get_inputs() if len(entry.shape) != 4]
        if len(images) != 1 or images[0].type not in _DTYPES or others not in ([], ["orig_target_sizes"]):
            raise UsageError(
                f"{_KEY} {self._path} takes {_described(self._session.get_inputs())}, not one batch of float images"
            )
        self._input, self._asks_size = images[0], bool(others)
        self.size = _input_size(images[0].shape, about)
        outputs = self._run(np.zeros((1, 3, *self.size), np.float32))
        family = family_of(outputs, self.size, about)
        if family is None:
            given = ", ".join(f"{name} {values.shape}" for name, values in outputs.items())
            raise UsageError(
                f"{_KEY} {self._path} gives {given} for images of {self.size[0]} x {self.size[1]}, which is no output of "
                "YOLOv5 to v11, YOLOX, RT-DETR or D-FINE; wrap it in a function and name that, as module:function"
            )
        self.family, self.person = family, _person(about, self._path)
        self._suppress = _suppression(self._path) if family.overlapping else None
        logger.info(f"{_KEY} {self._path}: {family.name}, {self.size[0]} x {self.size[1]}, class {self.person}")

    def __call__(self, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See :func:`build_detector`."""
        _check_frame(frame)
        pixels, placed = prepared(frame, self.family, self.size)
        try:
            boxes, scores = self.family.decode(self._run(pixels), self.size, self.person)
        except IndexError as error:
            raise UsageError(f"{_KEY} {self._path} has no class {self.person}, which its metadata name") from error
        good = (scores >= self._min_score) & np.isfinite(boxes).all(axis=1)  # what is not a number goes as well
        boxes, scores = boxes[good], scores[good]
        if self._suppress is not None and len(
            boxes
        ):  # before boxes end at the frame, as the programs do: that changes overlaps
            best = self._suppress(np.column_stack([boxes, scores]), self._max_iou)
            boxes, scores = boxes[best], scores[best]
        boxes = placed.to_frame(boxes)
        seen = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return boxes[seen], scores[seen].astype(np.float32)

    def _run(self, pixels: np.ndarray) -> dict:
        given = {self._input.name: pixels.astype(_DTYPES[self._input.type])}
        if self._asks_size:  # (width, height); boxes are then in pixels of the input, as the others' are
            given["orig_target_sizes"] = np.array([self.size[::-1]], np.int64)
        names = [entry.name for entry in self._session.get_outputs()]
        try:
            found = self._session.run(names, given)
        except Exception as error:  # onnxruntime has many kinds
            reason = " ".join(str(error).split())
            size = f"{self.size[0]} x {self.size[1]}"
            raise UsageError(f"{_KEY} {self._path} cannot be run with images of {size} ({reason})") from error
        return {name: np.asarray(values, np.float32) for name, values in zip(names, found)}


class OpenCVPeople:
    """OpenCV's linear classifier of gradients (Dalal and Triggs, CVPR 2005): upright, whole people of 128 pixels and more."""

    def __init__(self) -> None:
        try:
            import cv2
        except ImportError as error:
            raise UsageError(
                f"without boxes and without {_KEY} people are found by OpenCV, which is not installed: "
                "pip install 'opencv-python-headless<5'"
            ) from error
        if not hasattr(cv2, "HOGDescriptor"):
            raise UsageError(
                f"OpenCV {cv2.__version__} has no people detector; name another with {_KEY}, or: "
                "pip install 'opencv-python-headless<5'"
            )
        self._classifier = cv2.HOGDescriptor()
        self._classifier.setSVMDetector(np.array(cv2.HOGDescriptor.getDefaultPeopleDetector()))
        logger.warning(
            f"no {_KEY}: people are found by OpenCV's detector of 2005, which is weak (it misses the small, the bent and the "
            f"hidden, and takes posts for people); an ONNX file of a YOLO or RT-DETR finds far more: {_KEY} FILE.onnx"
        )

    def __call__(self, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See :func:`build_detector`."""
        _check_frame(frame)
        bgr = np.ascontiguousarray(frame[..., ::-1])
        if bgr.shape[0] < self._classifier.winSize[1] or bgr.shape[1] < self._classifier.winSize[0]:
            return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        found, scores = self._classifier.detectMultiScale(bgr, winStride=_HOG_STEP, scale=_HOG_SCALE)
        boxes = np.asarray(found, np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return boxes, np.asarray(scores, np.float32).ravel()


class _Checked:
    """A function of the user's own, whose result is looked at."""

    def __init__(self, function: Callable[[np.ndarray], Any], name: str):
        self._function, self._name = function, shown(name)

    def __call__(self, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        result = self._function(frame)
        try:
            boxes, scores = (np.asarray(part, np.float32) for part in result)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"{_KEY} {self._name} must return boxes and scores, not {type(result).__name__}"
            ) from error
        if not boxes.size and not scores.size:
            return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
            shapes = f"{boxes.shape} and {scores.shape}"
            raise UsageError(f"{_KEY} {self._name} must return boxes (n, 4) and scores (n,), not {shapes}")
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise UsageError(f"{_KEY} {self._name} returned numbers that are not finite")
        return boxes, scores


def _session(path: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(f"{_KEY} {shown(path)} needs onnxruntime: pip install onnxruntime") from error
    if not os.path.isfile(path):
        raise UsageError(f"{_KEY} {shown(path)} is no file; check the path")
    known = onnxruntime.get_available_providers()
    providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in known]
    try:
        return onnxruntime.InferenceSession(path, providers=providers)
    except Exception as error:  # of a damaged file, or of operators that it does not know: many kinds
        reason = " ".join(str(error).split())
        raise UsageError(f"{_KEY} {shown(path)} cannot be read as ONNX ({reason})") from error


def _described(entries: Any) -> str:
    return ", ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in entries)


def _input_size(shape: list, about: dict) -> tuple:
    """(height, width) of the input: as declared, else as Ultralytics' metadata say, else usual."""
    said = _literal(about.get("imgsz"))
    usual = tuple(said) if isinstance(said, (list, tuple)) and len(said) == 2 else _SIZE
    return tuple(one if isinstance(one, int) and one > 0 else other for one, other in zip(shape[2:], usual))


def _person(about: dict, path: str) -> int:
    """The class of people: by the names in Ultralytics' metadata, else COCO's."""
    names = _literal(about.get("names"))
    if not isinstance(names, dict) or not names:
        return _PERSON
    for number, name in names.items():
        if str(name).lower() in _PERSON_NAMES:
            return int(number)
    if len(names) == 1:
        return int(next(iter(names)))
    raise UsageError(f"{_KEY} {path} finds no people but {', '.join(map(str, list(names.values())[:5]))}; name another")


def _literal(text: Optional[str]) -> Any:
    try:
        return ast.literal_eval(text or "None")
    except (ValueError, SyntaxError):
        return None


def _suppression(path: str) -> Callable:
    """A function that keeps the best of boxes that overlap: (boxes and scores (n, 5), largest IoU) -> which, bool (n,)."""
    try:
        from supervision import box_non_max_suppression
    except ImportError as error:
        raise UsageError(
            f"{_KEY} {path} gives overlapping boxes, which need supervision: pip install supervision"
        ) from error
    return box_non_max_suppression


def _check_frame(frame: np.ndarray) -> None:
    if not (isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3):
        kind = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise TypeError(f"a frame must be an array (H, W, 3) of uint8, not {kind}")
