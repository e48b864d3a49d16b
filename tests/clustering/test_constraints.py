"""What tracks say, held to by every clusterer."""

import logging

import numpy as np
import pytest
from clustering.references import random_embeddings, unit
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_matrix
from scipy.spatial.distance import squareform
from sklearn.cluster import OPTICS
from sklearn.metrics import adjusted_rand_score

from ise_plugin.clustering import (
    DBSCAN,
    HDBSCAN,
    OUTLIER,
    Agglomerative,
    Infomap,
    KMeans,
    SelfPacedDBSCAN,
    constraints,
    jaccard_graph,
)
from ise_plugin.clustering.constraints import Constraints, fit_constrained, track_constraints
from ise_plugin.registry import CLUSTERER

LOGGER = "fastreid.ise.clustering"


class Scikit:
    """A clusterer of the user's own that wants the dense matrix."""

    def __init__(self, make):
        self._make = make

    def fit_predict(self, graph):
        distance = np.ones(graph.shape)
        pairs = graph.tocoo()
        distance[pairs.row, pairs.col] = pairs.data
        return self._make().fit_predict(distance)


CLUSTERERS = {
    "dbscan": DBSCAN(0.6, 2),
    "auto": DBSCAN("auto", 4),
    "optics": Scikit(lambda: OPTICS(min_samples=3, metric="precomputed", max_eps=0.9)),
    "agglomerative": Agglomerative(0.7, 1),
    "hdbscan": HDBSCAN(2),
    "infomap": Infomap(0.6, 2),
    "k-means": KMeans(3),
    "self-paced": SelfPacedDBSCAN(0.6, 2),
}


def random_graph(size: int, random, reach: float = 0.8) -> csr_matrix:
    """Distances without ties; the diagonal stored."""
    distance = random.uniform(0.05, 1, (size, size)).astype(np.float32)
    distance = np.minimum(distance, distance.T)
    np.fill_diagonal(distance, 0)
    rows, columns = np.nonzero(distance <= reach)
    return csr_matrix((distance[rows, columns], (rows, columns)), distance.shape)


def random_tracks(size: int, random) -> tuple:
    """Cameras, tracks and times with some of each unknown."""
    tracks = random.integers(-1, max(1, size // 3), size)
    cameras = np.where(random.random(size) < 0.1, -1, tracks % 2)
    times = np.where(random.random(size) < 0.1, np.nan, random.integers(0, 40, size).astype(float))
    return cameras, tracks, times


def made(graph, cameras, tracks, times, **options):
    return track_constraints(
        np.ones((graph.shape[0], 1), np.float32), cameras, tracks, times, max_cut_error=0, **options
    )


def seen_together(cameras, tracks, times, max_gap=2.0) -> set:
    """Pairs of (camera, track) whose runs of images share a moment: every pair of images looked at."""
    runs = {}
    for camera in set(cameras[cameras >= 0].tolist()):
        of = {
            track: sorted(times[(cameras == camera) & (tracks == track) & ~np.isnan(times)].tolist())
            for track in set(tracks[tracks >= 0].tolist())
        }
        steps = [b - a for moments in of.values() for a, b in zip(moments, moments[1:]) if b > a]
        usual = np.median(steps) if steps else 0
        for track, moments in of.items():
            linked = [(a, b) for a, b in zip(moments, moments[1:]) if b - a <= max_gap * usual]
            runs[camera, track] = linked + [(moment, moment) for moment in moments]
    return {
        frozenset((one, other))
        for one in runs
        for other in runs
        if one != other and one[0] == other[0]
        if any(a <= d and c <= b for a, b in runs[one] for c, d in runs[other])
    }


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000))
def test_pairs_apart_are_the_tracks_that_one_camera_sees_at_one_moment(size, seed):
    random = np.random.default_rng(seed)
    cameras, tracks, times = random_tracks(size, random)
    found = made(random_graph(size, random), cameras, tracks, times)
    expected = seen_together(cameras, tracks, times)
    if found is None:
        assert not expected and all(
            ((tracks == t) & (cameras == c)).sum() <= 1 for t in set(tracks) - {-1} for c in set(cameras)
        )
        return
    names = {unit: (cameras[i], tracks[i]) for i, unit in enumerate(found.units)}
    assert {frozenset((names[a], names[b])) for a, b in found.apart.tolist()} == expected
    assert len(found.apart) == len(expected)


def test_every_clusterer_of_the_package_is_tried_here():
    """A new one is to hold to what tracks say, too; OPTICS is one of the user's own, and other tests register more."""
    registered = {each for _, each in CLUSTERER if each.__module__.startswith("ise_plugin.")}
    assert {type(each) for each in CLUSTERERS.values()} - {Scikit} == registered


@pytest.mark.parametrize("name", CLUSTERERS)
def test_no_clustering_violates_a_hard_constraint(name):
    @settings(max_examples=8 if name == "infomap" else 40, deadline=None)  # that one is a process each time
    @given(st.sampled_from([0.8, 1.0]), st.integers(5, 45), st.integers(0, 10_000))
    def check(reach, size, seed):
        random = np.random.default_rng(seed)
        graph, (cameras, tracks, times) = random_graph(size, random, reach), random_tracks(size, random)
        found, features = made(graph, cameras, tracks, times), unit(random.standard_normal((size, 4)))
        labels = fit_constrained(CLUSTERERS[name], graph, found, reach, features=features)
        if found is None:
            return
        assert found.violated(labels) == 0
        for pair in seen_together(cameras, tracks, times):
            one, other = (set(labels[(cameras == c) & (tracks == t)]) - {OUTLIER} for c, t in pair)
            assert one.isdisjoint(other)
        for track in set(tracks[tracks >= 0]):
            for camera in set(cameras):
                assert len(set(labels[(tracks == track) & (cameras == camera)])) <= 1
        numbers = labels[labels != OUTLIER]
        assert labels.dtype == np.int64 and set(numbers) == set(range(numbers.max(initial=-1) + 1))

    check()


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 60), st.integers(0, 10_000))
def test_the_order_of_the_rows_changes_nothing(size, seed):
    random = np.random.default_rng(seed)
    graph, (cameras, tracks, times) = random_graph(size, random), random_tracks(size, random)
    order = random.permutation(size)
    clusterer = DBSCAN(0.5, 2)  # without border points, which go to the first of two clusters
    labels = fit_constrained(clusterer, graph, made(graph, cameras, tracks, times), 0.8)
    permuted = graph[order][:, order]
    again = fit_constrained(clusterer, permuted, made(permuted, cameras[order], tracks[order], times[order]), 0.8)
    np.testing.assert_array_equal(labels[order] == OUTLIER, again == OUTLIER)
    assert adjusted_rand_score(labels[order], again) == 1


@pytest.mark.parametrize("name", CLUSTERERS)
def test_without_tracks_the_labels_are_the_plain_ones(name):
    graph = jaccard_graph(random_embeddings(60, 8), 10, 3, 0.8)
    nothing = made(graph, np.zeros(60, int), np.full(60, -1), np.arange(60.0))
    assert nothing is None
    features = {"features": random_embeddings(60, 8)}
    wanted = features if "features" in getattr(CLUSTERERS[name], "wants", ()) else {}
    np.testing.assert_array_equal(
        fit_constrained(CLUSTERERS[name], graph, nothing, 0.8, **features),
        CLUSTERERS[name].fit_predict(graph, **wanted),
    )


@pytest.mark.parametrize("reach", [0.7, 1.0])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_graph_holds_the_mean_of_each_images_nearest_in_the_other_track(weight, reach, monkeypatch):
    monkeypatch.setattr(constraints, "_MOST_IN_BLOCK", 3)
    random = np.random.default_rng(1)
    graph = random_graph(24, random, reach)
    tracks, times = random.integers(-1, 5, 24), random.permutation(24).astype(float)
    found = made(graph, np.zeros(24, int), tracks, times, weight=weight, max_gap=1.0)
    similar = np.zeros((24, 24))
    similar[graph.nonzero()] = 1 - graph.toarray()[graph.nonzero()]
    apart = {frozenset(pair) for pair in found.apart.tolist()}
    for i in range(24):
        for j in set(range(24)) - {i}:
            one, other = (np.flatnonzero(found.blocks == found.blocks[k]) for k in (i, j))
            assert len(one) <= 3 and (tracks[i] >= 0 or len(one) == 1)
            nearest = lambda a, b: np.mean([max(similar[x, y] for y in b if x != y) for x in a])
            expected = (nearest(one, other) + nearest(other, one)) / 2
            expected = weight * expected + (1 - weight) * similar[i, j]
            if frozenset((found.units[i], found.units[j])) in apart:
                expected *= 1 - weight
            stored = {c: v for c, v in zip(*row_of(found.linked(graph, reach), i))}
            assert stored[i] == 0
            assert (j in stored) == (1 - expected <= reach)
            assert stored.get(j, 0) == pytest.approx((1 - expected) * (j in stored), abs=1e-6)


def row_of(graph, i):
    part = slice(graph.indptr[i], graph.indptr[i + 1])
    return graph.indices[part].tolist(), graph.data[part].tolist()


def test_a_cluster_with_two_people_is_put_together_anew_the_most_similar_first():
    #    a chain 0-1-2-3 and 0, 3 apart; 2 is nearer to 3, 1 nearer to 0; 4 touches only 0, less than 1 does
    graph = np.ones((5, 5), np.float32)
    for i, j, d in ((0, 1, 0.1), (1, 2, 0.3), (2, 3, 0.2), (0, 4, 0.4)):
        graph[i, j] = graph[j, i] = d
    np.fill_diagonal(graph, 0)
    apart = Constraints(np.arange(5), np.arange(5), np.array([[0, 3]]))
    assert apart.repaired(np.zeros(5, np.int64), csr_matrix(graph)).tolist() == [0, 0, 1, 1, 0]
    # what is left alone of a cluster is an outlier
    alone = Constraints(np.arange(5), np.arange(5), np.array([[0, 3], [2, 3]]))
    assert alone.repaired(np.zeros(5, np.int64), csr_matrix(graph)).tolist() == [0, 0, 0, OUTLIER, 0]


@pytest.mark.parametrize("max_distance", [0.3, 0.6, 1.0])
def test_units_are_joined_by_average_linkage_up_to_a_distance_and_never_two_that_are_apart(max_distance):
    random = np.random.default_rng(4)
    graph = random_graph(30, random, reach=1.0)
    alone, nobody = np.arange(30), np.empty((0, 2), np.int64)
    tree = linkage(squareform(1 - _dense_similarities(graph), checks=False), "average")
    found = Constraints(alone, alone, nobody).joined(graph, max_distance)
    # parts that share nothing are not joined: nothing is known of them
    expected = fcluster(tree, min(max_distance, 1 - 1e-6), "distance")
    assert adjusted_rand_score(found, expected) == 1
    units = np.repeat(np.arange(10), 3)
    apart = np.array([(0, 1), (2, 7)])
    constraints = Constraints(units, units, apart)
    found = constraints.joined(graph, max_distance)
    assert constraints.violated(found) == 0 and (found >= 0).all()
    assert all(len(set(found[units == unit])) == 1 for unit in range(10))


def _dense_similarities(graph):
    distances = np.ones(graph.shape)
    distances[graph.nonzero()] = 0
    dense = np.where(distances == 0, graph.toarray(), 1)
    np.fill_diagonal(dense, 0)
    return 1 - dense


def test_a_unit_goes_where_most_of_its_clustered_images_are_or_where_it_is_nearer():
    graph = np.full((6, 6), 0.9, np.float32)
    graph[1, 5] = graph[5, 1] = 0.1
    np.fill_diagonal(graph, 0)
    units = np.array([0, 0, 0, 0, 1, 2])
    track = Constraints(units, units, np.empty((0, 2), np.int64))
    labels = np.array([OUTLIER, OUTLIER, 1, 1, 0, 0])
    assert track.repaired(labels, csr_matrix(graph)).tolist() == [0, 0, 0, 0, 1, 1]
    tie = np.array([0, 0, 1, 1, 1, 0])
    assert track.repaired(tie, csr_matrix(graph)).tolist() == [0, 0, 0, 0, 1, 0]


def walks(people: int, tracks: int, images: int, noise: float, seed: int = 0) -> tuple:
    """Tracks of people, one after the other in one camera: features, tracks, times, and the person of each track."""
    random = np.random.default_rng(seed)
    centers = random.standard_normal((people, 32))
    owners = np.arange(tracks) % people
    numbers = np.repeat(np.arange(tracks), images)
    features = unit(centers[owners[numbers]] + noise * random.standard_normal((len(numbers), 32)))
    return features, numbers, np.arange(len(numbers), dtype=float), owners


def test_switched_tracks_are_found_cut_where_they_switch_and_said(caplog):
    features, tracks, times, _ = walks(20, 200, 4, 0.6)
    switched = np.where((tracks % 20 == 7), tracks + 1, tracks)  # 10 of 190 tracks go on as the next person
    names = [f"walk {number}" for number in range(200)]
    with caplog.at_level(logging.INFO, LOGGER):
        found = track_constraints(features, np.zeros(800, int), switched, times, names=names)
    assert [(cut.track, cut.time) for cut in found.cuts] == [(n, 4.0 * n) for n in range(8, 200, 20)]
    assert adjusted_rand_score(found.units, tracks) == 1
    assert "10 of 190 tracks look like two people" in caplog.text and "track walk 8 before time 32," in caplog.text
    assert "and 5 more" in caplog.text
    kept = track_constraints(features, np.zeros(800, int), switched, times, max_cut_error=0)
    assert kept.cuts == () and len(np.unique(kept.units)) == 190


def test_a_track_of_three_people_is_cut_twice():
    features, tracks, times, _ = walks(20, 200, 4, 0.6)
    found = track_constraints(features, np.zeros(800, int), np.where(tracks < 3, 0, tracks), times)
    assert [(cut.track, cut.time) for cut in found.cuts] == [(0, 4.0), (0, 8.0)]


def test_images_of_one_moment_are_never_cut_apart_nor_those_of_unknown_times():
    features, tracks, times, _ = walks(20, 200, 4, 0.6)
    switched = np.where(tracks < 2, 0, tracks)
    for value in (0.0, np.nan):
        moments = np.where(switched == 0, value, times)
        found = track_constraints(features, np.zeros(800, int), switched, moments)
        assert found.cuts == () and len(set(found.units[:8])) == 1


def test_embeddings_that_tell_nothing_cut_nothing(caplog):
    features, tracks, times, _ = walks(20, 200, 4, 50.0)
    with caplog.at_level(logging.INFO, LOGGER):
        found = track_constraints(features, np.zeros(800, int), tracks, times)
    assert found.cuts == () and "none is cut" in caplog.text


def test_overlapping_tracks_serve_as_examples_of_two_people(monkeypatch):
    """Each person's tracks follow one another, so what follows is the same person and no example."""
    monkeypatch.setattr(constraints, "_ENOUGH_OVERLAPS", 10)
    features, tracks, _, owners = walks(20, 200, 4, 0.6)
    times = (tracks // 20 * 4 + np.arange(800) % 4).astype(float)  # twenty people at once, ten tracks each
    switched = np.where(tracks == 5, 4, tracks)
    times[tracks == 5] += 1e4  # where nobody else is
    found = track_constraints(features, np.zeros(800, int), switched, times)
    assert [(cut.track, cut.time) for cut in found.cuts] == [(4, 1e4)]


def test_links_that_contradict_an_overlap_give_way_the_least_alike_and_are_named(caplog):
    rows = unit(np.array([[1, 0], [1, 0.1], [1, 0.3], [1, 2.0], [0, 1]]))
    tracks, times = np.array([0, 1, 2, 3, -1]), np.array([0.0, 9.0, 0.0, 20.0, np.nan])  # 0 and 2 at one moment
    links = [(1, 2), (0, 1), (3, 4), (0, 2)]  # 0-1 and 1-2 are alike, in that order; 3-4 contradicts nothing
    with caplog.at_level(logging.WARNING, LOGGER):
        found = track_constraints(rows, np.zeros(5, int), tracks, times, links, max_cut_error=0)
    units = found.units.tolist()
    assert units[0] == units[1] != units[2] and units[3] == units[4] != units[0] and len(set(units)) == 3
    assert found.apart.tolist() == [sorted((units[0], units[2]))]
    assert found.given_up.tolist() == [[0, 2], [1, 2]]
    assert "2 links" in caplog.text and "images 1 and 2 (track 1, track 2)" in caplog.text


def test_soft_constraints_leave_the_labels_to_the_clusterer():
    rows, columns = np.indices((4, 4)).reshape(2, -1)
    graph = csr_matrix((np.where(rows == columns, 0, 0.1).astype(np.float32), (rows, columns)), (4, 4))
    tracks, times = np.array([0, 0, 1, 1]), np.zeros(4)
    soft, hard = (made(graph, np.zeros(4, int), tracks, times, weight=weight) for weight in (0.2, 1.0))
    clusterer = DBSCAN(0.5, 2)
    assert (soft.hard, hard.hard) == (False, True)
    assert fit_constrained(clusterer, graph, soft, 0.5).tolist() == [0, 0, 0, 0]
    assert soft.violated(np.zeros(4, int)) == 1
    assert fit_constrained(clusterer, graph, hard, 0.5).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"cameras": np.zeros(3, int)}, "must have 8 entries"),
        ({"weight": 1.5}, "weight.*1.5"),
        ({"max_cut_error": -1}, "max_cut_error.*-1"),
    ],
)
def test_bad_arguments(change, message):
    given_ = {"cameras": np.zeros(8, int), "tracks": np.zeros(8, int), "times": np.arange(8.0), **change}
    with pytest.raises(ValueError, match=message):
        track_constraints(random_embeddings(8, 4), **given_)


def test_a_clusterer_is_given_what_it_wants_and_no_more():
    class Wanting:
        def __init__(self, *wants):
            self.wants = wants

        def fit_predict(self, graph, **given_):
            self.given = given_
            return np.zeros(6, np.int64)

    graph, features = random_graph(6, np.random.default_rng(0)), np.eye(6)
    found = made(graph, np.zeros(6, int), np.array([0, 0, 1, 1, 2, -1]), np.full(6, np.nan))
    both, one, none = Wanting("units", "features"), Wanting("units"), Wanting()
    for each in (both, one, none):
        fit_constrained(each, graph, found, 0.8, features=features)
    assert both.given["features"] is features and list(one.given) == ["units"] and none.given == {}
    assert one.given["units"] is both.given["units"] is found.units
    fit_constrained(both, graph, None, 0.8, features=features)
    assert list(both.given) == ["features"]  # nobody is known to be one person


# -- what a person says


def said_constraints(links, apart, tracks, times=None):
    count = len(tracks)
    rows = random_embeddings(count, 4, seed=0)
    times = np.full(count, np.nan) if times is None else times
    cameras = np.where(np.asarray(tracks) >= 0, 0, -1)
    return track_constraints(rows, cameras, np.asarray(tracks), times, said=(links, apart), max_cut_error=0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_is_said_becomes_units_and_pairs_apart(data):
    pairs = st.lists(
        st.tuples(st.integers(0, 7), st.integers(0, 7)).filter(lambda pair: pair[0] != pair[1]), max_size=5
    )
    links, apart = data.draw(pairs), data.draw(pairs)
    tracks = data.draw(st.lists(st.integers(-1, 2), min_size=8, max_size=8))
    found = said_constraints(links, apart, tracks)
    own = {i: {i} for i in range(8)}  # what the links alone connect, by closure
    for a, b in links:
        joined = own[a] | own[b]
        own.update(dict.fromkeys(joined, joined))
    holds = [(a, b) for a, b in apart if b not in own[a]]
    if found is None:
        assert not links and not holds
        return
    assert all(found.units[a] == found.units[b] for a, b in links)
    parted = {tuple(pair) for pair in found.apart.tolist()}
    assert parted == {tuple(sorted((int(found.units[a]), int(found.units[b])))) for a, b in holds}
    spoken = {i for pair in links + apart for i in pair}
    silent = [i for i in range(8) if i not in spoken]
    assert all(found.units[a] == found.units[b] for a in silent for b in silent if tracks[a] == tracks[b] >= 0)


def test_tracks_at_one_moment_give_way_to_what_is_said():
    tracks, times = [0, 0, 1, 1], np.array([0.0, 1, 0, 1])
    assert len(said_constraints([], [], tracks, times).apart) == 1
    found = said_constraints([(0, 2)], [], tracks, times)
    assert len(set(found.units.tolist())) == 1 and not len(found.apart)


def test_contradictions_among_what_is_said_are_named(caplog):
    caplog.set_level(logging.WARNING, LOGGER)
    found = said_constraints([(0, 1), (1, 2)], [(0, 2)], [-1] * 4)
    assert len(set(found.units[:3].tolist())) == 1 and "1 pairs of images said to be two people are one" in caplog.text
