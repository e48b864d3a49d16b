from collections import Counter, defaultdict

import pytest
from synthetic_persons import SIZES, count_images, make_plan
from synthetic_persons.plan import GALLERY_DIR, QUERY_DIR, TRAIN_DIR


@pytest.fixture(scope="module", params=[("tiny", 6), ("demo", 6), ("demo", 3), ("market", 6)], ids=str)
def plan(request):
    return make_plan(request.param[0], seed=0, cameras=request.param[1])


def test_market_has_the_counts_of_market_1501():
    plan = make_plan("market")
    assert count_images(plan) == {"train": 12936, "query": 3368, "gallery": 15913, "junk": 3819}
    assert len({i.pid for i in plan if i.folder == TRAIN_DIR}) == 751
    assert len({i.pid for i in plan if i.folder == QUERY_DIR}) == 750


def test_demo_and_tiny_counts():
    assert count_images(make_plan("demo"))["train"] == 2500
    assert count_images(make_plan("tiny"))["train"] == 150


def test_train_and_test_identities_are_disjoint(plan):
    train = {i.pid for i in plan if i.folder == TRAIN_DIR}
    test = {i.pid for i in plan if i.folder != TRAIN_DIR and i.pid > 0}
    assert train and test and not train & test
    assert min(train | test) >= 1 and max(train | test) <= 1501  # what fastreid's reader accepts


def test_names_are_unique_within_a_folder(plan):
    assert max(Counter((i.folder, i.name) for i in plan).values()) == 1


def test_one_query_per_identity_and_camera(plan):
    queries = Counter((i.pid, i.camera) for i in plan if i.folder == QUERY_DIR)
    assert set(queries.values()) == {1}
    gallery_pairs = {(i.pid, i.camera) for i in plan if i.folder == GALLERY_DIR and i.pid > 0}
    assert gallery_pairs == set(queries)


def test_every_query_has_a_match_from_another_camera(plan):
    cameras = defaultdict(set)
    for item in plan:
        if item.folder == GALLERY_DIR and item.pid > 0:
            cameras[item.pid].add(item.camera)
    for item in plan:
        if item.folder == QUERY_DIR:
            assert cameras[item.pid] - {item.camera}


def test_training_identities_are_seen_by_at_least_two_cameras(plan):
    cameras = defaultdict(set)
    for item in plan:
        if item.folder == TRAIN_DIR:
            cameras[item.pid].add(item.camera)
    assert min(len(seen) for seen in cameras.values()) >= 2


def test_distractors_and_junk_lie_in_the_gallery_only(plan):
    extras = [i for i in plan if i.pid <= 0]
    assert {i.folder for i in extras} == {GALLERY_DIR}
    assert {i.pid for i in extras} == {0, -1}
    test = {i.pid for i in plan if i.folder == QUERY_DIR}
    assert {i.person for i in extras if i.pid == -1} <= test


@pytest.mark.parametrize("cameras", [2, 4])
def test_fewer_cameras_keep_the_image_counts(cameras):
    plan = make_plan("tiny", cameras=cameras)
    assert {i.camera for i in plan} == set(range(1, cameras + 1))
    counts, full = count_images(plan), count_images(make_plan("tiny"))
    assert counts["train"] == full["train"] and counts["gallery"] == full["gallery"]
    assert counts["query"] < full["query"]


def test_the_seed_decides():
    assert make_plan("tiny", seed=5) == make_plan("tiny", seed=5)
    assert make_plan("tiny", seed=5) != make_plan("tiny", seed=6)


@pytest.mark.parametrize(
    "arguments, named",
    [(("huge",), "huge"), (("tiny", 0, 1), "1"), (("tiny", 0, 7), "7"), (("tiny", -1), "-1")],
)
def test_unusable_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        make_plan(*arguments)


def test_known_sizes():
    assert set(SIZES) == {"tiny", "demo", "market"}
