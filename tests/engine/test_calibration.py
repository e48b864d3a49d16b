"""A calibration of a labelling."""

import numpy as np
import torch
from ledger_helpers import draw

from ise_plugin.clustering import jaccard_graph
from ise_plugin.clustering.calibration import calibrate
from ise_plugin.engine.calibration import calibration_of, units_of
from ise_plugin.engine.labelling import Labelling


def test_images_of_a_track_are_one_unit():
    units = units_of(np.array([4, -1, 4, 0, -1]))
    assert units[0] == units[2] == 4 and units[3] == 0 and len(set(units.tolist())) == 4
    assert len(set(units_of(np.full(3, -1)).tolist())) == 3


def test_it_is_that_of_embeddings_labels_and_graph():
    batch, who = draw(range(20))
    tracks = np.where(who < 5, who, -1)
    graph = jaccard_graph(batch.vectors, 20, max_distance=0.6)
    made = Labelling(torch.as_tensor(batch.vectors), who, graph, 0.5)
    assert calibration_of(made, tracks) == calibrate(batch.vectors, who, units_of(tracks), eps=0.5, graph=graph)
    other = Labelling(torch.as_tensor(batch.vectors), who, None, None)  # of a clusterer without eps
    assert calibration_of(other, tracks) == calibrate(batch.vectors, who, units_of(tracks))
