"""Groups against a list of known people."""

import pytest

from ise_plugin.errors import UsageError
from ise_plugin.identities.groups import Identity
from ise_plugin.identities.score import read_truth, score_of


def rows_of(clusters):
    return [
        Identity(
            f"{i}.jpg",
            cluster,
            cluster < 0,
            0.9 if cluster >= 0 else None,
            None,
            None,
            "",
            0.8 if cluster >= 0 else None,
        )
        for i, cluster in enumerate(clusters)
    ]


def test_listed_images_alone_count():
    rows = rows_of([0, 0, 0, 1, 1, -1, 2])
    truth = {
        "0.jpg": "ann",
        "1.jpg": "ann",
        "2.jpg": "bob",
        "3.jpg": "bob",
        "4.jpg": "bob",
        "5.jpg": "ann",
        "gone.jpg": "eve",
    }
    found = score_of(rows, truth)
    assert (found["listed"], found["not_in_identities_csv"], found["people"], found["groups"]) == (7, 1, 2, 2)
    assert found["outliers"] == 1 and found["purity"] == 0.8 and found["estimated_purity"] == 0.8
    assert found["mixed_clusters"] == 0.5 and found["split_identities"] == 0.5
    assert found["ari_outliers_alone"] < found["ari"] < 1


def test_groups_that_fit():
    found = score_of(rows_of([0, 0, 1, 1]), {f"{i}.jpg": "ab"[i // 2] for i in range(4)})
    assert found["ari"] == found["ari_outliers_alone"] == found["purity"] == found["bcubed_f"] == 1


@pytest.mark.parametrize(
    "rows, words", [(rows_of([0, 0]), "no image of the list is in identities.csv, 0.jpg for one is"), ([], "is there")]
)
def test_a_list_of_other_images(rows, words):
    with pytest.raises(UsageError, match=words):
        score_of(rows, {"x.jpg": "ann"})


def test_a_list_of_outliers_alone():
    with pytest.raises(UsageError, match="no image of the list is in a group"):
        score_of(rows_of([-1, 0]), {"0.jpg": "ann"})


def test_a_list_is_read(tmp_path):
    (tmp_path / "t.csv").write_bytes("\ufeffidentity,path\nann,a.jpg\nbob,人.jpg\n".encode())
    assert read_truth(str(tmp_path / "t.csv")) == {"a.jpg": "ann", "人.jpg": "bob"}


@pytest.mark.parametrize(
    "content, words",
    [("", "no line"), ("path,who\na,b\n", "no column 'identity'"), ("path,identity\na\n", "a line without")],
)
def test_other_files_are_refused(tmp_path, content, words):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(UsageError, match=f"{words}.*columns path and identity"):
        read_truth(str(tmp_path / "t.csv"))
    with pytest.raises(UsageError, match="No such file"):
        read_truth(str(tmp_path / "missing.csv"))
