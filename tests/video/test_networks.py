"""Exported files embed as the run does, whatever they take."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from ise_plugin.video.networks import ExportedNetwork


@pytest.mark.parametrize(
    "about, expected",
    [
        ({}, [255, 0, 51]),
        ({"inputs": "pixels"}, [255, 0, 51]),
        ({"inputs": "normalized"}, [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]),
    ],
)
def test_crops_reach_the_network_as_its_file_takes_them(about, expected, tmp_path):
    """The network is the mean of each channel."""
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ("batch", 3, 8, 4))
    made = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ("batch", 3))
    axes = helper.make_tensor("axes", TensorProto.INT64, (2,), [2, 3])
    node = helper.make_node("ReduceMean", ["images", "axes"], ["embeddings"], keepdims=0)
    graph = helper.make_graph([node], "mean", [given], [made], [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {"ise_plugin": json.dumps({"input_height": 8, "input_width": 4, **about})})
    onnx.save(model, str(tmp_path / "m.onnx"))
    Image.fromarray(np.full((20, 10, 3), (255, 0, 51), np.uint8)).save(tmp_path / "crop.png")
    network = ExportedNetwork(str(tmp_path / "m.onnx"), "cpu")
    assert network([str(tmp_path / "crop.png")]) == pytest.approx(np.array([expected]), abs=1e-4)
