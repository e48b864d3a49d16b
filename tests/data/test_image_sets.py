"""What is read from fastreid's data set readers, and what is said when that fails."""

import numpy as np
import pytest
from fastreid.data.datasets import DATASET_REGISTRY

from ise_plugin.data import read_evaluation_images, read_training_images
from ise_plugin.errors import UsageError


def test_training_images_are_sorted_and_have_cameras(tiny_dataset):
    images = read_training_images(("SyntheticPersonsTiny",))
    assert list(images.paths) == sorted(images.paths) and len(images) == len(images.cameras) > 100
    in_name = [int(path.split("_c")[-1][0]) for path in images.paths]
    assert np.array_equal(np.unique(in_name, return_inverse=True)[1], images.cameras)
    assert [images.camera_names[c].split("_")[-1] for c in images.cameras] == [str(c - 1) for c in in_name]


def test_identities_are_not_kept(tiny_dataset):
    images = read_training_images(("SyntheticPersonsTiny",))
    assert set(vars(images)) == {"paths", "cameras", "camera_names", "stand_ins"}


def test_cameras_of_different_sets_are_different_cameras(tiny_dataset):
    one = read_training_images(("SyntheticPersonsTiny",))
    both = read_training_images(("SyntheticPersonsTiny", "SyntheticPersonsTiny"))
    assert len(both) == 2 * len(one) and both.cameras.max() == one.cameras.max()  # the same set twice: the same cameras


def test_fastreids_market1501_reader_reads_the_drawn_data(tiny_dataset, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_dataset / "synthetic_persons_tiny"))
    market, drawn = read_training_images(("Market1501",)), None
    monkeypatch.setenv("FASTREID_DATASETS", str(tiny_dataset))
    drawn = read_training_images(("SyntheticPersonsTiny",))
    assert [p.rsplit("/")[-1] for p in market.paths] == [p.rsplit("/")[-1] for p in drawn.paths]
    assert np.array_equal(market.cameras, drawn.cameras)


def test_queries_come_first(tiny_dataset):
    items, num_query = read_evaluation_images("SyntheticPersonsTiny")
    assert 0 < num_query < len(items)
    assert all(("/query/" in path) == (i < num_query) for i, (path, _, _) in enumerate(items))


def test_combining_takes_query_and_gallery_along(tiny_dataset):
    alone, combined = (read_training_images(("SyntheticPersonsTiny",), combine_all=c) for c in (False, True))
    assert set(alone.paths) < set(combined.paths) and any("/query/" in p for p in combined.paths)


@pytest.mark.parametrize("read", [lambda name: read_training_images((name,)), read_evaluation_images])
def test_missing_folder_says_where_and_what(tmp_path, monkeypatch, read):
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    for name in ("Market1501", "SyntheticPersons", "MSMT17", "DukeMTMC", "VeRi"):
        with pytest.raises(UsageError) as caught:
            read(name)
        message = str(caught.value)
        assert str(tmp_path) in message and "FASTREID_DATASETS" in message and "bounding_box_train" in message, message
        assert "\n" not in message


def test_empty_folder_is_an_error(tmp_path, monkeypatch):
    for part in ("bounding_box_train", "query", "bounding_box_test"):
        (tmp_path / part).mkdir()
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    with pytest.raises(UsageError, match="no training images"):
        read_training_images(("Market1501",))
    with pytest.raises(UsageError, match="no query images"):
        read_evaluation_images("Market1501")


def test_unknown_data_set_lists_the_known_ones():
    with pytest.raises(UsageError, match="'Market1502'.*Market1501"):
        read_training_images(("Market1502",))
    assert "SyntheticPersons" in DATASET_REGISTRY._obj_map
