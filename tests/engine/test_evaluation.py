"""The evaluator against stock fastreid's, and re-ranking against fastreid's own definition."""

import numpy as np
import pytest
import torch
from fastreid.evaluation import ReidEvaluator
from fastreid.evaluation.rank import evaluate_rank
from fastreid.evaluation.rerank import re_ranking
from fastreid.utils.compute_dist import build_dist

from ise_plugin.clustering import CameraJaccard, rerank_distance
from ise_plugin.config import get_cfg
from ise_plugin.engine.evaluation import PortableReidEvaluator
from ise_plugin.errors import UsageError

QUERIES, GALLERY, IDENTITIES = 20, 80, 12


def predictions(seed=0):
    """Embeddings of a few identities with noise, in batches of 30, queries first."""
    rng = np.random.default_rng(seed)
    identities = rng.integers(IDENTITIES, size=QUERIES + GALLERY)
    features = rng.standard_normal((IDENTITIES, 16))[identities] + 1.2 * rng.standard_normal((QUERIES + GALLERY, 16))
    cameras = rng.integers(3, size=QUERIES + GALLERY)
    columns = [torch.from_numpy(c) for c in (features.astype(np.float32), identities, cameras)]
    for parts in zip(*(c.split(30) for c in columns)):
        yield dict(zip(("outputs", "targets", "camids"), parts))


def results_of(evaluator_class, cfg):
    evaluator = evaluator_class(cfg, QUERIES)
    evaluator.reset()
    for batch in predictions():
        evaluator.process(batch, batch["outputs"])
    return evaluator.evaluate()


@pytest.fixture
def stock_without_compiling(monkeypatch):
    class Stock(ReidEvaluator):
        def _compile_dependencies(self):
            pass

    return Stock


@pytest.mark.parametrize(
    "keys",
    [{}, {"METRIC": "euclidean"}, {"AQE": True}, {"ROC": True}, {"AQE": True, "ROC": True, "METRIC": "euclidean"}],
)
def test_results_are_stock_fastreids(stock_without_compiling, keys):
    cfg = get_cfg()
    cfg.TEST.METRIC = keys.get("METRIC", "cosine")
    cfg.TEST.AQE.ENABLED, cfg.TEST.ROC.ENABLED = keys.get("AQE", False), keys.get("ROC", False)
    ours, theirs = results_of(PortableReidEvaluator, cfg), results_of(stock_without_compiling, cfg)
    assert list(ours) == list(theirs)
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert 20 < ours["mAP"] < 95


def test_reranking_is_fastreids_re_ranking_of_cosine_distances():
    cfg = get_cfg()
    cfg.TEST.RERANK.ENABLED = True
    columns = [torch.cat(parts) for parts in zip(*([b["outputs"], b["targets"], b["camids"]] for b in predictions()))]
    features, identities, cameras = columns[0], columns[1].numpy(), columns[2].numpy()
    query, gallery = features[:QUERIES], features[QUERIES:]
    distances = re_ranking(
        build_dist(query, gallery, "cosine"),
        build_dist(query, query, "cosine"),
        build_dist(gallery, gallery, "cosine"),
        cfg.TEST.RERANK.K1,
        cfg.TEST.RERANK.K2,
        cfg.TEST.RERANK.LAMBDA,
    )
    cmc, ap, inp = evaluate_rank(
        distances, identities[:QUERIES], identities[QUERIES:], cameras[:QUERIES], cameras[QUERIES:]
    )
    ours = results_of(PortableReidEvaluator, cfg)
    assert ours["mAP"] == pytest.approx(100 * np.mean(ap), abs=1e-6)
    assert ours["mINP"] == pytest.approx(100 * np.mean(inp), abs=1e-6)
    assert [ours[f"Rank-{r}"] for r in (1, 5, 10)] == pytest.approx([100 * cmc[r - 1] for r in (1, 5, 10)], abs=1e-6)
    cfg.TEST.RERANK.ENABLED = False
    assert results_of(PortableReidEvaluator, cfg)["mAP"] != ours["mAP"]


def test_reranking_by_cameras_ranks_what_the_function_gives():
    cfg = get_cfg()
    cfg.TEST.RERANK.ENABLED = cfg.ISE.CAMERAS.RERANK = True
    cfg.ISE.CAMERAS.K1_INTER = 9
    columns = [torch.cat(parts) for parts in zip(*([b["outputs"], b["targets"], b["camids"]] for b in predictions()))]
    features, identities, cameras = columns[0], columns[1].numpy(), columns[2].numpy()
    by_camera = CameraJaccard(k1_inter=9)
    distances = rerank_distance(features[:QUERIES], features[QUERIES:], cameras=cameras, by_camera=by_camera)
    _, ap, _ = evaluate_rank(
        distances, identities[:QUERIES], identities[QUERIES:], cameras[:QUERIES], cameras[QUERIES:]
    )
    ours = results_of(PortableReidEvaluator, cfg)["mAP"]
    assert ours == pytest.approx(100 * np.mean(ap), abs=1e-6)
    cfg.ISE.CAMERAS.RERANK = False
    assert results_of(PortableReidEvaluator, cfg)["mAP"] != ours


def test_reranking_of_euclidean_distances_is_refused():
    cfg = get_cfg()
    cfg.TEST.RERANK.ENABLED, cfg.TEST.METRIC = True, "euclidean"
    with pytest.raises(UsageError, match="TEST.METRIC cosine"):
        results_of(PortableReidEvaluator, cfg)


def test_nothing_is_compiled(monkeypatch):
    import fastreid.evaluation.reid_evaluation as module

    monkeypatch.setattr(module, "compile_helper", lambda: pytest.fail("the evaluator called make"))
    PortableReidEvaluator(get_cfg(), 1)
