"""MSMT17: train and val lists together, both layouts, version 2 only when asked."""

import miniatures
import pytest
from fastreid.data.datasets import DATASET_REGISTRY

from ise_plugin.data.image_sets import read_training_images
from ise_plugin.errors import UsageError


def parts(name, root):
    data = DATASET_REGISTRY.get(name)(root=str(root))
    return [
        [(path.split("/")[-1], who, camera) for path, who, camera in part]
        for part in (data.train, data.query, data.gallery)
    ]


VERSIONS = [("MSMT17V1", "MSMT17_V1", ("train", "test")), ("MSMT17V2", "MSMT17_V2", ("mask_train_v2", "mask_test_v2"))]


@pytest.mark.parametrize("name, version, folders", VERSIONS)
def test_the_official_layout_trains_on_train_and_val(tmp_path, name, version, folders):
    miniatures.msmt17(tmp_path, version, *folders)
    train, query, gallery = parts(name, tmp_path)
    assert train == [
        ("0000_000_01_0303morning_0015_0.jpg", "msmt17_0", "msmt17_0"),
        ("0000_001_02_0303morning_0017_0.jpg", "msmt17_0", "msmt17_1"),
        ("0001_000_14_0303noon_0016_1.jpg", "msmt17_1", "msmt17_13"),
    ]
    assert query == [("0000_000_03_0303morning_0018_0.jpg", 0, 2)]
    assert [(who, camera) for _, who, camera in gallery] == [(0, 3), (1, 2)]


def test_markets_layout(tmp_path):
    for folder, names in {
        "bounding_box_train": ["0007_c1_0002.jpg", "0007_c15_0003.jpg", "Thumbs.db"],
        "query": ["0001_c2_0000.jpg"],
        "bounding_box_test": ["0001_c3_0001.jpg"],
    }.items():
        (tmp_path / "MSMT17_V1" / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / "MSMT17_V1" / folder / name).touch()
    train, query, gallery = parts("MSMT17V1", tmp_path)
    assert [who for _, *who in train] == [["msmt17_7", "msmt17_14"], ["msmt17_7", "msmt17_0"]]
    assert query[0][1:] == (1, 1) and gallery[0][1:] == (1, 2)


def test_version_2_is_not_taken_for_version_1(tmp_path, monkeypatch):
    miniatures.msmt17_v2(tmp_path)
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    with pytest.raises(UsageError, match="MSMT17_V1.*not found.*list_val.txt"):
        read_training_images(("MSMT17V1",))
    assert len(read_training_images(("MSMT17V2",))) == 3
