"""Runs as folders of files, made without training, and a look at a page's markup."""

import json
from html.parser import HTMLParser

import pytest
import yaml
from PIL import Image

STEPS = 4
CONFIG = {
    "SEED": 0,
    "OUTPUT_DIR": "logs/x",
    "ISE": {"ITERS_PER_EPOCH": STEPS, "REPORT": {"PICTURES": True, "MAP_METHOD": "tsne"}},
    "SOLVER": {"MAX_EPOCH": 3, "BASE_LR": 0.001},
    "DATASETS": {"NAMES": ["Drawn"], "TESTS": ["Drawn"]},
}


def metrics_lines(epochs: int, **more) -> list:
    """What three writers' lines per epoch look like: labelling first, the rest at the epoch's end."""
    lines = []
    for epoch in range(epochs):
        first = {"clusters": 10.0 + epoch, "outliers": 5.0, "labels/outlier_share": 0.1, "labels/ari": 0.5 + epoch / 10}
        lines.append({"iteration": epoch * STEPS, "extraction_time": 1.0, **first})
        last = {"total_loss": 3.0 - epoch, "loss_se": 2.0, "lr": 0.001, "degree": 0.1 * epoch, "training_time": 2.0}
        lines.append({"iteration": epoch * STEPS + STEPS - 1, **last, **more})
    return lines


@pytest.fixture
def make_run(tmp_path):
    """Writes a run's folder: ``make_run(name, lines=..., results=..., config=..., **files of report/)``."""

    def make(name="run", lines=(), results=None, config=CONFIG, **report):
        folder = tmp_path / name
        (folder / "report").mkdir(parents=True)
        if lines:
            (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if results is not None:
            (folder / "results.json").write_text(json.dumps(results))
        if config is not None:
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
        for file, content in report.items():
            (folder / "report" / f"{file}.json").write_text(json.dumps(content))
        return folder

    return make


class Page(HTMLParser):
    """A page's elements, attributes and text; fails where elements do not close in order."""

    VOID = {"meta", "link", "img", "br", "wbr", "path", "circle", "use"}

    def __init__(self, markup: str):
        super().__init__()
        self.tags, self.attributes, self.texts, self._open = [], [], [], []
        self.feed(markup)
        assert not self._open, self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def stays_alone(self) -> bool:
        """Whether nothing runs and nothing is fetched: no scripts, no handlers, no address but data and parts of the page."""
        assert not {"script", "iframe", "object", "embed", "form", "base"} & set(self.tags)
        assert not [a for a in self.attributes if a[1].startswith("on")]
        addresses = [
            a[2] for a in self.attributes if a[1] in ("src", "href", "srcset", "action", "poster", "xlink:href")
        ]
        return all(address.startswith(("data:", "#")) for address in addresses)


@pytest.fixture
def read_page():
    return Page


@pytest.fixture
def image_files(tmp_path):
    """Writes small pictures and gives their paths: ``image_files(3)``, or with names of one's own."""

    def write(count, names=None):
        paths = []
        for i in range(count):
            path = tmp_path / (names[i] if names else f"image{i:03d}.png")
            Image.new("RGB", (20, 40), (i * 37 % 256, 90, 160)).save(path, "PNG")
            paths.append(str(path))
        return paths

    return write
