"""Detectors: files of every family give boxes in the frame's pixels, whatever is unknown is refused."""

import logging
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ise_plugin.video.detectors as module
from ise_plugin.errors import UsageError
from ise_plugin.video.detector_families import family_of, prepared

# The input of every file here; and a frame, of which two thirds fit: 96 x 32 pixels, or 96 x 64 where it is stretched.
HEIGHT, WIDTH = 64, 96
FRAME = np.zeros((48, 144, 3), np.uint8)
# The person in the frame; in the input with grey above and below (16 pixels each), with all grey below, and stretched
PERSON = (30, 12, 60, 36)
CENTRE, CORNER, STRETCHED = (20, 24, 40, 40), (20, 8, 40, 24), (20, 16, 40, 48)
CELLS = 96 + 24 + 6  # of 8, 16 and 32 pixels


def cxcywh(box):
    left, top, right, bottom = box
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def fractions(box):
    return np.array(cxcywh(box)) / (WIDTH, HEIGHT, WIDTH, HEIGHT)


def write(path, outputs, metadata=None, shape=(1, 3, HEIGHT, WIDTH), kind=TensorProto.FLOAT, sizes=False, lit=None):
    """A file that gives known outputs; ``boxes`` times the asked size, ``lit`` times the mean of the image's first channel."""
    nodes, constants = [], {name: np.asarray(value) for name, value in outputs.items()}
    inputs = [helper.make_tensor_value_info("images", kind, shape)]
    if sizes:
        inputs.append(helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, (1, 2)))
        nodes += [helper.make_node("Cast", ["orig_target_sizes"], ["f"], to=TensorProto.FLOAT)]
        nodes += [helper.make_node("Concat", ["f", "f"], ["ff"], axis=1)]
    if lit:
        ends = {"a": [0], "b": [1], "axis": [1]}
        nodes += [helper.make_node("Slice", ["images", "a", "b", "axis"], ["first"])]
        nodes += [helper.make_node("ReduceMean", ["first"], ["mean"], keepdims=0)]
        constants |= {name: np.array(value, np.int64) for name, value in ends.items()}
    for name in outputs:
        factor = {"boxes": "ff" if sizes else None, lit: "mean"}.get(name)
        node = helper.make_node("Mul", [f"{name}_", factor], [name]) if factor else None
        nodes.append(node or helper.make_node("Identity", [f"{name}_"], [name]))
        constants[f"{name}_"] = constants.pop(name)
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(constants[f"{name}_"].dtype), None)
        for name in outputs
    ]
    kept = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "detector", inputs, values, kept), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 10
    helper.set_model_props(model, metadata or {})
    onnx.save(model, str(path))
    return str(path)


def rows(count, width, chosen):
    """(1, count, width) of zeros, with rows by their numbers."""
    result = np.zeros((1, count, width), np.float32)
    for place, row in chosen.items():
        result[0, place, : len(row)] = row
    return result


def one_hot(number, score, classes=80):
    return [score if number == i else 0 for i in range(classes)]


def yolov8(person=0, classes=80):
    """The person twice, another class, a person of a low score, and one in the grey."""
    box, grey = cxcywh(CENTRE), (30, 6, 20, 10)
    return rows(
        CELLS,
        4 + classes,
        {
            17: [*box, *one_hot(person, 0.9, classes)],
            18: [box[0] + 1, *box[1:], *one_hot(person, 0.8, classes)],
            50: [70, 32, 10, 16, *one_hot(classes - 1, 0.99, classes)],
            60: [70, 32, 10, 16, *one_hot(person, 0.05, classes)],
            70: [*grey, *one_hot(person, 0.9, classes)],
        },
    ).transpose(0, 2, 1)


def yolov5():
    box = cxcywh(CENTRE)
    chosen = {
        5: [*box, 0.9, *one_hot(0, 0.8)],
        300: [*box[:3], 15, 0.8, *one_hot(0, 0.8)],
        9: [*box, 0, *one_hot(0, 1)],
    }
    return rows(3 * CELLS, 85, chosen | {77: [70, 32, 10, 16, 0.9, *one_hot(2, 0.9)]})


def yolox(in_pixels):
    """The cell of 8 pixels with the corner (24, 8) holds the person's centre (30, 16); the next one finds it too."""
    found = rows(
        CELLS, 85, {15: [0.75, 1, np.log(20 / 8), np.log(16 / 8)], 16: [-0.25, 1, np.log(20 / 8), np.log(16 / 8)]}
    )
    if in_pixels:
        corners = [(x, y) for s in (8, 16, 32) for y in range(0, HEIGHT, s) for x in range(0, WIDTH, s)]
        found[0, :, :2], found[0, :, 2:4] = corners, 4
        found[0, 15, :4] = found[0, 16, :4] = cxcywh(CORNER)
    found[0, 15, 4:6], found[0, 16, 4:6] = (0.9, 0.8), (0.8, 0.8)
    return found


FINAL = rows(300, 6, {0: [*CENTRE, 0.9, 0], 1: [70, 24, 80, 40, 0.9, 2], 2: [*CENTRE, 0.05, 0]})
DETR = rows(300, 84, {4: [*fractions(STRETCHED), *one_hot(0, 0.9)], 5: [0.8, 0.5, 0.1, 0.2, *one_hot(7, 0.9)]})
DETR_FINAL = rows(300, 6, {0: [*fractions(STRETCHED), 0.9, 0], 1: [0.8, 0.5, 0.1, 0.2, 0.9, 2]})
DETR_TWO = rows(300, 6, {0: [*fractions(STRETCHED), 0.9, 0.01], 1: [0.8, 0.5, 0.1, 0.2, 0.02, 0.9]})
LOGITS = rows(300, 80, {i: [-9.0] * 80 for i in range(300)} | {4: [2.0, *[-9.0] * 79]})
PARTS = {
    "labels": np.array([[0, 7, 0]], np.int64),
    "boxes": np.array([[STRETCHED, STRETCHED, (0, 0, 10, 10)]], np.float32)
    / np.float32([WIDTH, HEIGHT, WIDTH, HEIGHT]),
    "scores": np.array([[0.9, 0.9, 0.05]], np.float32),
}
FAMILIES = {
    "YOLOv8, v9, v11": ({"output0": yolov8()}, {}, 0.9),
    "YOLOv5, v7": ({"output0": yolov5(), "raw": np.zeros((1, 3, 8, 12, 85), np.float32)}, {}, 0.72),
    "YOLOv10, or with its suppression inside": ({"output0": FINAL}, {}, 0.9),
    "YOLOX": ({"output": yolox(in_pixels=False)}, {}, 0.72),
    "YOLOX ": ({"output": yolox(in_pixels=True)}, {}, 0.72),
    "RT-DETR, D-FINE": (PARTS, {"sizes": True}, 0.9),
    "RT-DETR (Ultralytics)": ({"output0": DETR}, {}, 0.9),
    "RT-DETR (Ultralytics) ": ({"output0": DETR_FINAL}, {}, 0.9),
    "RT-DETR (Ultralytics)  ": ({"output0": DETR_TWO}, {}, 0.9),
    "RT-DETR, D-FINE (transformers)": ({"logits": LOGITS, "pred_boxes": DETR[..., :4]}, {}, 1 / (1 + np.exp(-2))),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_boxes_of_every_family_are_in_the_frames_pixels(name, tmp_path):
    pytest.importorskip("supervision")
    outputs, options, score = FAMILIES[name]
    detector = module.build_detector(write(tmp_path / "d.onnx", outputs, **options))
    assert (detector.family.name, detector.size, detector.person) == (name.strip(), (HEIGHT, WIDTH), 0)
    boxes, scores = detector(FRAME)
    assert boxes.dtype == scores.dtype == np.float32
    assert boxes == pytest.approx(np.array([PERSON]), abs=1e-3) and scores == pytest.approx([score], abs=1e-5)


def test_frame_without_people(tmp_path):
    for name, outputs in {"a": {"output0": 0 * yolov8()}, "b": {"output0": 0 * FINAL}}.items():
        boxes, scores = module.build_detector(write(tmp_path / f"{name}.onnx", outputs))(FRAME)
        assert boxes.shape == (0, 4) and scores.shape == (0,) and boxes.dtype == scores.dtype == np.float32


def test_overlaps_are_those_of_boxes_as_they_were_found(tmp_path):
    """Two people who share the frame's corner overlap there altogether, and by a third before they end at the frame."""
    pytest.importorskip("supervision")
    found = rows(CELLS, 5, {1: [*cxcywh((-40, 0, 40, 64)), 0.9], 2: [*cxcywh((0, 0, 40, 128)), 0.8]}).transpose(0, 2, 1)
    boxes, scores = module.build_detector(write(tmp_path / "d.onnx", {"output0": found}))(FRAME)
    assert boxes.tolist() == [[0, 0, 60, 48]] * 2 and scores == pytest.approx([0.9, 0.8])


def test_boxes_end_at_the_frame_and_numbers_that_are_none_go(tmp_path):
    found = rows(300, 6, {0: [-9, 20, 40, 90, 0.9, 0], 1: [np.nan, 20, 40, 40, 0.9, 0], 2: [0, 20, 9, 40, np.nan, 0]})
    boxes, _ = module.build_detector(write(tmp_path / "d.onnx", {"output0": found}))(FRAME)
    assert boxes.tolist() == [[0, 6, 60, 48]]


@pytest.mark.parametrize(
    "name, outputs, colour, mean",
    [
        ("output0", rows(300, 6, {0: [*CENTRE, 0.9, 0]}), (255, 0, 0), 1.0),  # red first, 0..1
        ("output", yolox(in_pixels=True), (0, 0, 255), 255.0),  # blue first, 0..255
    ],
)
def test_colours_reach_the_network_in_its_order_and_range(name, outputs, colour, mean, tmp_path):
    pytest.importorskip("supervision")
    outputs = outputs.copy()
    outputs[..., 4] /= (
        mean  # scores of the one, objectness of the other; both are multiplied by the mean of the first channel
    )
    full = np.zeros((HEIGHT, WIDTH, 3), np.uint8) + np.uint8(colour)
    expected = outputs * mean
    detector = module.OnnxDetector(write(tmp_path / "d.onnx", {name: outputs}, lit=name))
    boxes, scores = detector.family.decode(
        detector._run(prepared(full, detector.family, detector.size)[0]), (64, 96), 0
    )
    wanted, _ = detector.family.decode({name: expected}, (64, 96), 0)
    assert np.allclose(boxes, wanted) and scores.max() > 0.5
    assert not detector(full[..., ::-1])[1].size  # the other colour's mean is 0


def test_place_of_the_frame_in_the_input():
    frame = np.full((48, 144, 3), (200, 100, 50), np.uint8)
    parts = {name: np.asarray(value) for name, value in PARTS.items()}
    centre = prepared(frame, family_of({"output0": FINAL}, (64, 96), {}), (64, 96))[0]
    corner = prepared(frame, family_of({"output": yolox(True)}, (64, 96), {}), (64, 96))[0]
    stretched = prepared(frame, family_of(parts, (64, 96), {}), (64, 96))[0]
    assert [image.shape for image in (centre, corner, stretched)] == [(1, 3, 64, 96)] * 3
    assert centre[0, :, 15, 0] == pytest.approx(114 / 255) and centre[0, :, 16, 0] == pytest.approx(
        np.array([200, 100, 50]) / 255
    )
    assert (
        corner[0, :, 0, 0].tolist() == corner[0, :, 31, 95].tolist() == [50, 100, 200]
        and (corner[0, :, 32:] == 114).all()
    )
    assert (stretched == stretched[:, :, :1, :1]).all()
    thin = prepared(np.zeros((2000, 3, 3), np.uint8), family_of({"output0": FINAL}, (64, 96), {}), (64, 96))[1]
    assert (thin.left, thin.top, thin.width, thin.height) == (47, 0, 1, 64)


def test_class_of_people_is_found_by_its_name(tmp_path):
    pytest.importorskip("supervision")
    names = {i: name for i, name in enumerate(("car", "dog", "Person", "cat"))}
    path = write(tmp_path / "d.onnx", {"output0": yolov8(person=2, classes=4)}, {"names": str(names)})
    assert module.build_detector(path)(FRAME)[0] == pytest.approx(np.array([PERSON]), abs=1e-3)
    path = write(tmp_path / "head.onnx", {"output0": FINAL}, {"names": "{0: 'head'}"})
    assert module.build_detector(path).person == 0
    with pytest.raises(UsageError, match="finds no people but car, dog"):
        module.build_detector(write(tmp_path / "no.onnx", {"output0": FINAL}, {"names": "{0: 'car', 1: 'dog'}"}))
    path = write(tmp_path / "few.onnx", {"output0": yolov8(classes=2)}, {"names": str(names)})
    with pytest.raises(UsageError, match="no class 2"):
        module.build_detector(path)(FRAME)


def test_input_of_open_size_and_of_half_precision(tmp_path):
    shape, size = ("batch", 3, "height", "width"), {"imgsz": f"[{HEIGHT}, {WIDTH}]"}
    detector = module.build_detector(write(tmp_path / "a.onnx", {"output0": FINAL}, size, shape, TensorProto.FLOAT16))
    assert detector.size == (HEIGHT, WIDTH) and detector(FRAME)[0].tolist() == [list(PERSON)]
    assert module.build_detector(write(tmp_path / "b.onnx", {"output0": FINAL}, shape=shape)).size == (640, 640)


@pytest.mark.parametrize(
    "outputs",
    [
        {"logits": np.zeros((1, 1000), np.float32)},
        {"logits": np.zeros((1, 100, 92), np.float32), "pred_boxes": np.zeros((1, 100, 4), np.float32)},  # DETR
        {"outputs": rows(CELLS, 85, {})},  # YOLOv6
        {"output0": rows(300, 84, {0: (10, 10, 20, 20, 0.9)})},  # neither parts of the input nor six numbers
        {"dets": np.zeros((1, 100, 5), np.float32), "labels": np.zeros((1, 100), np.int64)},  # MMDeploy
    ],
)
def test_unknown_outputs_are_refused_with_names_and_shapes(outputs, tmp_path):
    with pytest.raises(UsageError) as caught:
        module.build_detector(write(tmp_path / "d.onnx", outputs))
    message = str(caught.value)
    assert "\n" not in message and all(f"{name} {value.shape}" in message for name, value in outputs.items())


def test_segments_after_suppression_are_no_rtdetr(tmp_path):
    masks = {"output0": rows(300, 38, {}), "output1": np.zeros((1, 32, 16, 24), np.float32)}
    with pytest.raises(UsageError, match=r"output1 \(1, 32, 16, 24\)"):
        module.build_detector(write(tmp_path / "a.onnx", masks))
    with pytest.raises(UsageError, match=r"output0 \(1, 300, 57\)"):
        module.build_detector(write(tmp_path / "b.onnx", {"output0": DETR[..., :57]}, {"task": "pose"}))


def test_other_inputs_and_damaged_files_are_refused(tmp_path):
    path = write(tmp_path / "d.onnx", {"output0": FINAL}, kind=TensorProto.UINT8)
    with pytest.raises(UsageError, match=r"images tensor\(uint8\) \[1, 3, 64, 96\], not one batch of float images"):
        module.build_detector(path)
    with pytest.raises(UsageError, match="cannot be run with images of 64 x 96"):
        module.build_detector(write(tmp_path / "four.onnx", {"output0": FINAL}, shape=(4, 3, HEIGHT, WIDTH)))
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(UsageError, match="cannot be read as ONNX"):
        module.build_detector(tmp_path / "broken.onnx")
    with pytest.raises(UsageError, match="no file"):
        module.build_detector(tmp_path / "absent.onnx")
    with pytest.raises(UsageError, match="neither an ONNX file nor module:function"):
        module.build_detector("yolo11n.pt")


@pytest.mark.parametrize("frame", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), "frame.jpg"])
def test_frames_are_pictures(frame, tmp_path):
    with pytest.raises(TypeError, match="a frame must be"):
        module.build_detector(write(tmp_path / "d.onnx", {"output0": FINAL}))(frame)


@pytest.mark.parametrize(
    "package, spec, command",
    [
        ("onnxruntime", "d.onnx", "pip install onnxruntime"),
        ("cv2", None, "pip install 'opencv-python-headless<5'"),
    ],
)
def test_missing_packages_name_the_command(package, spec, command, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=command):
        module.build_detector(spec)


def test_missing_suppression_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UsageError, match="pip install supervision"):
        module.build_detector(write(tmp_path / "d.onnx", {"output0": yolov8()}))


def test_functions_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_detector.py").write_text(
        "def find(frame):\n    return [[0, 0, frame.shape[1], frame.shape[0]]], [0.5]\n\n\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for spec in ("own_detector:find", f"{tmp_path}/own_detector.py:find"):
        boxes, scores = module.build_detector(spec)(FRAME)
        assert boxes.tolist() == [[0, 0, 144, 48]] and scores.tolist() == [0.5] and boxes.dtype == np.float32
    for spec in ("own_detector:missing", "own_detector:number"):
        with pytest.raises(UsageError, match="own_detector has no function"):
            module.build_detector(spec)
    with pytest.raises(UsageError, match="cannot be imported"):
        module.build_detector("no_such_module_here:find")


@pytest.mark.parametrize(
    "result, reason",
    [
        (None, "must return boxes and scores, not NoneType"),
        (([[0, 0, 1, 1]], [0.5, 0.5]), r"not \(1, 4\) and \(2,\)"),
        (([[0, 0, 1]], [0.5]), r"not \(1, 3\) and \(1,\)"),
        (([[0, 0, 1, np.nan]], [0.5]), "not finite"),
    ],
)
def test_what_a_function_returns_is_looked_at(result, reason):
    with pytest.raises(UsageError, match=reason):
        module.build_detector(lambda frame: result)(FRAME)
    boxes, scores = module.build_detector(lambda frame: ([], []))(FRAME)
    assert boxes.shape == (0, 4) and scores.shape == (0,)


def test_opencv_finds_people_where_nothing_is_named(caplog, monkeypatch):
    cv2 = pytest.importorskip("cv2")
    seen = []
    with caplog.at_level(logging.WARNING, "fastreid.ise.video"):
        detector = module.build_detector()
        assert detector(np.zeros((200, 200, 3), np.uint8))[0].shape == (0, 4)
        assert detector(np.zeros((20, 20, 3), np.uint8))[0].shape == (0, 4)  # smaller than a person of its
    assert len(caplog.records) == 1 and "weak" in caplog.text
    fake = cv2.HOGDescriptor()

    class Found:
        winSize = fake.winSize

        def detectMultiScale(self, image, **options):
            seen.append(image)
            return np.array([[10, 20, 64, 128]], np.int32), np.array([0.7])

    monkeypatch.setattr(detector, "_classifier", Found())
    boxes, scores = detector(np.full((200, 200, 3), (1, 2, 3), np.uint8))
    assert boxes.tolist() == [[10, 20, 74, 148]] and scores == pytest.approx([0.7])
    assert seen[0][0, 0].tolist() == [3, 2, 1]
