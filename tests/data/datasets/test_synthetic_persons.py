"""Reading the written files; needs fastreid, which importing ise_plugin prepares."""

import re
import warnings
from pathlib import Path

import pytest
from synthetic_persons import make_plan

import ise_plugin  # noqa: F401  (must come before fastreid)

datasets = pytest.importorskip("fastreid.data.datasets")


@pytest.fixture(scope="module")
def tiny(datasets_folder):
    return datasets.DATASET_REGISTRY.get("SyntheticPersonsTiny")(root=str(datasets_folder))


def planned(folder, with_junk=False):
    return [i for i in make_plan("tiny") if i.folder == folder and (with_junk or i.pid != -1)]


def test_three_sizes_are_registered():
    sizes = {"SyntheticPersons": "demo", "SyntheticPersonsTiny": "tiny", "SyntheticPersonsMarket": "market"}
    assert {name: datasets.DATASET_REGISTRY.get(name).size for name in sizes} == sizes


def test_training_items_carry_names_as_strings(tiny):
    prefix = "syntheticpersons_"
    expected = {(i.name, f"{prefix}{i.pid}", f"{prefix}{i.camera - 1}") for i in planned("bounding_box_train")}
    assert {(Path(path).name, pid, camera) for path, pid, camera in tiny.train} == expected
    assert len(tiny.train) == 150


@pytest.mark.parametrize("part, folder", [("query", "query"), ("gallery", "bounding_box_test")])
def test_test_items_carry_numbers(tiny, part, folder):
    items = getattr(tiny, part)
    assert {(Path(path).name, pid, camera) for path, pid, camera in items} == {
        (i.name, i.pid, i.camera - 1) for i in planned(folder)
    }
    assert all(Path(path).is_file() for path, _, _ in items)


def test_junk_is_left_out_and_distractors_stay(tiny):
    identities = {pid for _, pid, _ in tiny.gallery}
    assert any(i.pid == -1 for i in planned("bounding_box_test", with_junk=True))
    assert -1 not in identities and 0 in identities
    assert tiny._junk_pids == [0, -1]


def test_items_are_sorted(tiny):
    for items in (tiny.train, tiny.query, tiny.gallery):
        assert items == sorted(items)


def test_fastreids_own_market_reader_sees_the_same(datasets_folder, tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about data straight under the root
        market = datasets.DATASET_REGISTRY.get("Market1501")(root=str(datasets_folder / "synthetic_persons_tiny"))

    def rename(items):
        return sorted(
            (path, *(label.replace("market1501", "syntheticpersons") for label in labels)) for path, *labels in items
        )

    assert rename(market.train) == tiny.train
    assert sorted(market.query) == tiny.query
    assert sorted(market.gallery) == tiny.gallery


def test_other_files_are_ignored(datasets_folder, tiny):
    stray = datasets_folder / "synthetic_persons_tiny" / "query" / "Thumbs.db"
    stray.write_bytes(b"")
    try:
        assert tiny.process_dir(str(stray.parent), is_train=False) == tiny.query
    finally:
        stray.unlink()


def test_a_missing_folder_says_how_to_write_it(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        datasets.DATASET_REGISTRY.get("SyntheticPersons")(root=str(tmp_path))
    message = str(caught.value)
    assert "\n" not in message
    command = "python projects/SyntheticPersons/make.py --size demo"
    for needed in (str(tmp_path / "synthetic_persons_demo"), "FASTREID_DATASETS", "bounding_box_train", command):
        assert needed in message


def test_a_missing_part_is_named(tmp_path):
    (tmp_path / "synthetic_persons_tiny" / "bounding_box_train").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "synthetic_persons_tiny" / "query"))):
        datasets.DATASET_REGISTRY.get("SyntheticPersonsTiny")(root=str(tmp_path))
