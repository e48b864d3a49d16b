"""What is read from fastreid's data set readers, and what is said when that fails."""

import re

import numpy as np
import pytest
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset

from ise_plugin.data import read_evaluation_images, read_training_images
from ise_plugin.data.sightings import Sighting
from ise_plugin.errors import UsageError


def test_training_images_are_sorted_and_have_cameras(tiny_dataset):
    images = read_training_images(("SyntheticPersonsTiny",))
    assert list(images.paths) == sorted(images.paths) and len(images) == len(images.cameras) > 100
    in_name = [int(path.split("_c")[-1][0]) for path in images.paths]
    assert np.array_equal(np.unique(in_name, return_inverse=True)[1], images.cameras)
    assert [images.camera_names[c].split("_")[-1] for c in images.cameras] == [str(c - 1) for c in in_name]


def test_identities_are_not_kept(tiny_dataset):
    images = read_training_images(("SyntheticPersonsTiny",))
    kept = {"paths", "cameras", "camera_names", "tracks", "track_names", "times", "stand_ins", "views"}
    assert set(vars(images)) == kept and set(images.tracks) == {-1}


def test_names_of_files_tell_camera_sequence_and_frame(tiny_dataset):
    images = read_training_images(("SyntheticPersonsTiny",))
    names = [re.search(r"_c(\d)s(\d)_(\d{6})_", path).groups() for path in images.paths]
    by_name, by_time = {}, {}
    for (camera, sequence, frame), number, time in zip(names, images.cameras, images.times):
        by_name.setdefault(camera, []).append((int(sequence), int(frame)))
        by_time.setdefault(number, []).append(time)
    assert len({camera for camera, sequence, _ in names if sequence == "2"}) > 1
    for places, times in zip(map(by_name.get, sorted(by_name)), map(by_time.get, sorted(by_time))):
        for (s, f), time in zip(places, times):
            for (other_s, other_f), other in zip(places, times):
                if s == other_s:
                    assert time - other == f - other_f
                elif s > other_s:
                    assert time - other > 500_000


FORMER = {
    "DukeMTMC": ("DukeMTMC-reID", "0001_c2_f0046182.jpg", [46182]),
    "VeRi": ("veri", "0001_c001_00016450_0.jpg", [16450]),
    "Market1501": ("Market-1501-v15.09.15", "0002_c1s1_000451_03.jpg", [451]),
}


@pytest.mark.parametrize("name", FORMER)
def test_stock_readers_give_the_frame(tmp_path, monkeypatch, name):
    folder, file, times = FORMER[name]
    for part in ("bounding_box_train", "query", "bounding_box_test", "image_train", "image_query", "image_test"):
        (tmp_path / folder / part).mkdir(parents=True)
        (tmp_path / folder / part / file).touch()
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    images = read_training_images((name,))
    assert images.times.tolist() == times and images.cameras.tolist() == [0] and images.tracks.tolist() == [-1]


class OneOfOnesOwn(ImageDataset):
    ITEMS = [("b.jpg", 1, 4), ("a.jpg", 1, "unknown"), ("c.jpg", 1, -1)]

    def __init__(self, root="", **kwargs):
        super().__init__(self.ITEMS, [], [], **kwargs)


class WithTracks(OneOfOnesOwn):
    def sighting(self, path):
        return Sighting(track=7 if path < "c" else None, sequence=1, time=ord(path[0]))


class WithAFault(OneOfOnesOwn):
    def __init__(self, root="", **kwargs):
        raise TypeError("'NoneType' object is not subscriptable")


@pytest.fixture
def own_readers(monkeypatch):
    for reader in (OneOfOnesOwn, WithTracks, WithAFault):
        monkeypatch.setitem(DATASET_REGISTRY._obj_map, reader.__name__, reader)


def test_a_reader_of_ones_own_tells_what_it_knows(own_readers):
    images = read_training_images(("OneOfOnesOwn",))
    assert images.cameras.tolist() == [-1, 0, -1] and images.camera_names == ("OneOfOnesOwn/4",)
    assert images.tracks.tolist() == [-1, -1, -1] and np.isnan(images.times).all()
    images = read_training_images(("WithTracks",))
    assert images.cameras.tolist() == [-1, 0, -1] and images.tracks.tolist() == [0, 0, -1]
    assert images.times.tolist() == [97, 98, 99] and images.track_names == ("WithTracks/7 of 1",)


def test_a_fault_of_such_a_readers_program_is_shown_as_one(own_readers):
    with pytest.raises(TypeError, match="not subscriptable"):
        read_training_images(("WithAFault",))


def test_tracks_of_different_sets_are_different_tracks(own_readers, monkeypatch):
    monkeypatch.setitem(DATASET_REGISTRY._obj_map, "Other", type("Other", (WithTracks,), {}))
    images = read_training_images(("WithTracks", "Other"))
    assert len(set(images.cameras[images.cameras >= 0])) == 2 and len(set(images.tracks[images.tracks >= 0])) == 2


def test_readers_that_know_no_cameras_give_none(monkeypatch):
    monkeypatch.setitem(DATASET_REGISTRY._obj_map, "VehicleID", type("VehicleID", (OneOfOnesOwn,), {}))
    images = read_training_images(("VehicleID",))
    assert images.cameras.tolist() == [-1, -1, -1] and images.camera_names == ()


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
