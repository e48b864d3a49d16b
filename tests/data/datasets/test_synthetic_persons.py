"""Reading the written files; needs fastreid, which importing ise_plugin prepares."""

import re
import runpy
import warnings
from pathlib import Path

import pytest

import ise_plugin  # noqa: F401  (must come before fastreid)
from ise_plugin.data.synthetic import make_plan, write_dataset

datasets = pytest.importorskip("fastreid.data.datasets")
TOOL = Path(__file__).parents[3] / "tools" / "make_synthetic_persons.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    write_dataset(root / "synthetic_persons_tiny", "tiny", workers=1, progress=False)
    return root


@pytest.fixture(scope="module")
def tiny(root):
    return datasets.DATASET_REGISTRY.get("SyntheticPersonsTiny")(root=str(root))


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


def test_fastreids_own_market_reader_sees_the_same(root, tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about data straight under the root
        market = datasets.DATASET_REGISTRY.get("Market1501")(root=str(root / "synthetic_persons_tiny"))

    def rename(items):
        return sorted(
            (path, *(label.replace("market1501", "syntheticpersons") for label in labels)) for path, *labels in items
        )

    assert rename(market.train) == tiny.train
    assert sorted(market.query) == tiny.query
    assert sorted(market.gallery) == tiny.gallery


def test_other_files_are_ignored(root, tiny):
    stray = root / "synthetic_persons_tiny" / "query" / "Thumbs.db"
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
    command = "python tools/make_synthetic_persons.py --size demo"
    for needed in (str(tmp_path / "synthetic_persons_demo"), "FASTREID_DATASETS", "bounding_box_train", command):
        assert needed in message


def test_a_missing_part_is_named(tmp_path):
    (tmp_path / "synthetic_persons_tiny" / "bounding_box_train").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "synthetic_persons_tiny" / "query"))):
        datasets.DATASET_REGISTRY.get("SyntheticPersonsTiny")(root=str(tmp_path))


@pytest.fixture
def tool():
    return runpy.run_path(str(TOOL))["main"]


def test_the_tool_reuses_what_is_there(root, tool, capsys):
    assert tool(["--size", "tiny", "--output", str(root)]) == 0
    assert "already there" in capsys.readouterr().out


def test_the_tool_writes_where_the_variable_says(tmp_path, monkeypatch, tool, capsys):
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    assert tool(["--size", "tiny", "--seed", "7", "--cameras", "4"]) == 0
    variant = datasets.DATASET_REGISTRY.get("SyntheticPersonsTiny")(root=str(tmp_path))
    assert {camera for _, _, camera in variant.query} == {0, 1, 2, 3}


@pytest.mark.parametrize("options", [["--seed", "3"], ["--cameras", "8"], ["--workers", "0"], ["--seed", "-1"]])
def test_user_errors_are_one_line_and_exit_code_2(root, tool, capsys, options):
    assert tool(["--size", "tiny", "--output", str(root), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("make_synthetic_persons: ")


def test_unknown_size_exits_with_code_2(tmp_path, tool, capsys):
    with pytest.raises(SystemExit) as caught:
        tool(["--size", "huge", "--output", str(tmp_path)])
    assert caught.value.code == 2 and "huge" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
