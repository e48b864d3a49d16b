"""The picture of a sweep."""

from PIL import Image
from sweep.conftest import METRICS

from ise_plugin.sweep.picture import draw


def test_the_picture_is_the_same_for_the_same_runs(rows, tmp_path):
    for name in ("one", "two"):
        draw(str(tmp_path / f"{name}.png"), rows, METRICS, "ise-sweep " + "--word " * 60)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.width > 1000 and picture.height > 200
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 20  # ink on it
