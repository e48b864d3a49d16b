"""The documents: links and paths lead somewhere, examples run, lines stay readable."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import REPOSITORY

from ise_plugin.config import load_cfg
from ise_plugin.registry import CLUSTERER, DISTANCE, HOOK, LOSS, MEMORY, SAMPLER, build
from ise_plugin.utils.distributed import WholeBatch

TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
DOCUMENTS = [REPOSITORY / name for name in TOP] + sorted(
    path for room in ("docs", "projects") for path in (REPOSITORY / room).rglob("*.md")
)
LONGEST_LINE = 120
REGISTRIES = (CLUSTERER, DISTANCE, HOOK, LOSS, MEMORY, SAMPLER)
# where a path in a document may start, beside the document's own folder
STARTS = (REPOSITORY, REPOSITORY / "ise_plugin", REPOSITORY / "tests", REPOSITORY / "configs", REPOSITORY / "docs")
PATH = r"(?:[\w.-]+/)+[\w-]+\.(?:py|yml|md|png|jpg|cfg|sbatch)\b"


def anchors(document: Path) -> set:
    """The names that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_links_and_paths_lead_somewhere_and_lines_are_short(document):
    text = document.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", text):
        place = document.parent / target if target else document
        assert place.exists(), target
        assert not anchor or anchor[1:] in anchors(place), target + anchor
    for path in re.findall(rf"(?<![\w/.]){PATH}", text):
        assert any((start / path).exists() for start in (document.parent, *STARTS)), path
    long = [number for number, line in enumerate(text.splitlines(), 1) if len(line) > LONGEST_LINE]
    assert not long, f"lines of more than {LONGEST_LINE} characters: {long}"


def test_parts_of_ones_own_are_built_from_the_config_alone(tmp_path, monkeypatch):
    text = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
    parts = re.findall(r"```python\n(# my_parts\.py\n.*?)```", text, re.DOTALL)
    (tmp_path / "my_parts.py").write_text("\n".join(parts))
    (tmp_path / "mine.yml").write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_obj_map", dict(registry._obj_map))
    cfg = load_cfg(str(tmp_path / "mine.yml"))

    settings = cfg.ISE.PSEUDO_LABEL
    features = torch.nn.functional.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))
    features = features.repeat_interleave(5, dim=0)
    similarities, indices = (features @ features.T).topk(5)
    distance = build(DISTANCE, settings.DISTANCE, "DISTANCE", cfg)(features, (similarities.numpy(), indices.numpy()))
    clusterer = build(CLUSTERER, settings.CLUSTERER, "CLUSTERER", cfg)
    labels = clusterer.fit_predict(distance.within(clusterer.max_distance))
    assert all(len(set(labels[start : start + 5])) == 1 for start in (0, 5, 10)) and len(set(labels)) == 3
    np.testing.assert_allclose(distance.of_rows(np.array([7])), 1 - features[7:8] @ features.T, atol=1e-6)

    loss = build(LOSS, cfg.MODEL.LOSSES.NAME[1], "NAME", cfg)
    outputs = {"features": features, "labels": torch.zeros(15, dtype=torch.int64), "centroids": features[:1]}
    assert float(loss({**outputs, "features": features[:1].repeat(15, 1)})["loss_pull"]) == pytest.approx(0, abs=1e-6)
    stay = build(LOSS, cfg.MODEL.LOSSES.NAME[2], "NAME", cfg)
    memory = build(MEMORY, *stay.wants, "wants", cfg)
    memory.fill(features, torch.zeros(15, dtype=torch.int64), None)
    outputs.update(memory(features, WholeBatch(outputs["labels"], (15,), torch.arange(15))))
    assert float(stay(outputs)["loss_stay"]) == pytest.approx(0, abs=1e-6)
    cfg.SOLVER.IMS_PER_BATCH, cfg.ISE.ITERS_PER_EPOCH = 4, 3
    sampler = build(SAMPLER, cfg.ISE.SAMPLER, "ISE.SAMPLER", cfg, labels=np.array([0, 0, 1, 1, -1, -1]), seed=0)
    assert [[i for i, _, _ in batch] for batch in sampler] == [[0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5]]
    assert hasattr(build(HOOK, cfg.ISE.HOOKS[-1], "ISE.HOOKS", cfg), "after_labelling")


def test_citation_names_the_version_and_the_paper():
    import ise_plugin

    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == ise_plugin.__version__
    title = citation["preferred-citation"]["title"]
    assert title in (REPOSITORY / "README.md").read_text(encoding="utf-8")
