"""The sampler's promises: groups, cameras, singletons, repetition, order."""

import numpy as np
import pytest

from ise_plugin.data import CrossCameraBatchSampler, RandomBatchSampler, samplers
from ise_plugin.utils import distributed


def make(labels, cameras, num_instances=4, batch_size=8, num_batches=50, seed=0, **options):
    arrays = np.array(labels), np.array(cameras)
    return CrossCameraBatchSampler(*arrays, num_instances, batch_size, num_batches, seed, **options)


def groups_of(sampler):
    for batch in sampler:
        for start in range(0, len(batch), sampler.num_instances):
            yield batch[start : start + sampler.num_instances]


MANY = dict(labels=np.repeat(np.arange(6), 10), cameras=np.tile(np.arange(10) % 3, 6))


def test_batches_are_whole_groups_of_distinct_clusters():
    sampler = make(**MANY, num_instances=4, batch_size=12)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 50
    for batch in batches:
        labels = [label for _, label, _ in batch]
        groups = [labels[i : i + 4] for i in range(0, 12, 4)]
        assert all(len(set(group)) == 1 for group in groups)
        assert len({group[0] for group in groups}) == 3
        assert all(MANY["labels"][index] == label for index, label, _ in batch)


def test_a_pass_visits_every_cluster_once():
    batches = list(make(**MANY, num_instances=2, batch_size=4, num_batches=6))
    for start in (0, 3):  # six clusters, two to a batch
        assert sorted(batch[i][1] for batch in batches[start : start + 3] for i in (0, 2)) == list(range(6))


def test_clusters_left_over_at_the_end_of_a_pass_are_dropped():
    labels = np.repeat(np.arange(5), 4)
    batches = list(make(labels, labels * 0, num_instances=2, batch_size=4, num_batches=40))
    for start in range(0, 40, 2):
        drawn = [batch[i][1] for batch in batches[start : start + 2] for i in (0, 2)]
        assert len(set(drawn)) == 4


def test_partners_come_from_other_cameras_without_repetition():
    cameras = MANY["cameras"]
    for group in groups_of(make(**MANY)):
        indices = [index for index, _, _ in group]
        assert all(cameras[i] != cameras[indices[0]] for i in indices[1:])
        assert len(set(indices)) == 4


def test_too_few_in_other_cameras_are_repeated():
    # one image by camera 1, five by camera 0: a first image by camera 0 has one partner, three times
    sampler = make([0] * 6 + [1] * 6, [1, 0, 0, 0, 0, 0] * 2)
    repeated = 0
    for group in groups_of(sampler):
        first, *partners = [index for index, _, _ in group]
        if first % 6:
            assert set(partners) == {first - first % 6}
            repeated += 1
        else:
            assert len(set(partners)) == 3
    assert repeated > 10


def test_exactly_enough_partners_are_each_taken_once():
    for group in groups_of(make([0] * 4 + [1] * 4, [0, 1, 1, 1] * 2)):
        first, *partners = [index for index, _, _ in group]
        if first % 4 == 0:
            assert sorted(partners) == [first + 1, first + 2, first + 3]


def test_one_camera_gives_other_images_of_the_same():
    for group in groups_of(make([0] * 5 + [1] * 5, [0] * 10)):
        assert len({index for index, _, _ in group}) == 4


def test_one_camera_with_too_few_images_repeats_the_others():
    for group in groups_of(make([0, 0, 1, 1], [0] * 4)):
        first, *partners = [index for index, _, _ in group]
        assert set(partners) == {first ^ 1}


def test_single_images_and_outliers_are_never_drawn():
    labels = [0, 0, 1, 2, 2, -1, -1, -1]
    drawn = {index for batch in make(labels, [0] * 8, num_instances=2, batch_size=4) for index, _, _ in batch}
    assert drawn == {0, 1, 3, 4}


def test_fewer_clusters_than_a_batch_wants_make_smaller_batches():
    sampler = make([0, 0, 1, 1], [0, 1, 0, 1], num_instances=2, batch_size=16, num_batches=3)
    assert [len(batch) for batch in sampler] == [4, 4, 4] and sampler.images_per_batch == 4


def test_same_seed_same_batches_other_seed_other_batches():
    assert list(make(**MANY, seed=3)) == list(make(**MANY, seed=3))
    assert list(make(**MANY, seed=3)) != list(make(**MANY, seed=4))
    sampler = make(**MANY)
    assert list(sampler) == list(sampler)


def test_every_image_of_a_batch_has_its_own_seed():
    seeds = [seed for batch in make(**MANY) for _, _, seed in batch]
    assert len(set(seeds)) > 0.99 * len(seeds) and all(0 <= s < 2**32 for s in seeds)


@pytest.mark.parametrize("labels", [[-1, -1, -1], [0, 1, 2]])
def test_nothing_to_draw_is_an_error(labels):
    with pytest.raises(ValueError, match="two or more images"):
        make(labels, [0, 0, 0])


@pytest.mark.parametrize("num_instances, batch_size", [(3, 8), (0, 8), (8, 4)])
def test_batch_must_be_whole_groups(num_instances, batch_size):
    with pytest.raises(ValueError, match=str(batch_size)):
        make(**MANY, num_instances=num_instances, batch_size=batch_size)


def shares(monkeypatch, world, draw):
    """The lists of every process: [of process 0, of process 1, ...]."""
    for module in (distributed, samplers):
        monkeypatch.setattr(module, "world_size", lambda: world)
    found = []
    for process in range(world):
        monkeypatch.setattr(samplers, "rank", lambda: process)
        found.append(list(draw()))
    return found


@pytest.mark.parametrize(
    "world, batch_size, counts",
    [(2, 12, (8, 4)), (3, 12, (4, 4, 4)), (4, 12, (3, 3, 3, 3)), (5, 4, (1, 1, 1, 1, 0)), (3, None, (2, 2, 1))],
)
def test_processes_share_the_batches_of_one(monkeypatch, world, batch_size, counts):
    groups = lambda: make(**MANY, batch_size=batch_size, num_batches=5)
    images = lambda: RandomBatchSampler(MANY["labels"] - 1, 5, 5, seed=0)
    draw = groups if batch_size else images
    expected, found = list(draw()), shares(monkeypatch, world, draw)
    for number, whole in enumerate(expected):
        parts = [batches[number] for batches in found]
        assert sum(map(list, parts), []) == whole and tuple(map(len, parts)) == counts
        for part in parts:
            assert part.labels.tolist() == [label for _, label, _ in whole] and part.counts == counts
            assert part.indices.tolist() == [index for index, _, _ in whole]


def test_images_of_unknown_camera_have_no_preference():
    labels, cameras = np.zeros(6, np.int64), np.array([-1, -1, -1, 0, 0, 1])
    partners = {first: set() for first in range(6)}
    for batch in make(labels, cameras, num_instances=2, batch_size=2, num_batches=600):
        partners[batch[0][0]].add(batch[1][0])
    known_others = {3: {0, 1, 2, 5}, 4: {0, 1, 2, 5}, 5: {0, 1, 2, 3, 4}}
    assert partners == {first: known_others.get(first, set(range(6)) - {first}) for first in range(6)}


def test_unknown_cameras_alone_draw_as_one_camera_does():
    labels = np.repeat(np.arange(5), 7)
    assert list(make(labels, np.full(35, -1))) == list(make(labels, np.zeros(35, np.int64)))


def test_groups_by_proxy_are_of_one_camera_each_as_often_as_any_other():
    labels = np.repeat([0, 1, 2, -1], [12, 4, 1, 3])  # cluster 2 has a single image
    cameras = np.array([0] * 9 + [1] * 2 + [-1] + [1] * 2 + [2] * 2 + [0] * 4)
    proxies = [(0, -1), (0, 0), (0, 1), (1, 1), (1, 2)]
    sampler = make(labels, cameras, num_instances=2, batch_size=10, num_batches=30, by_proxy=True)
    assert sampler.images_per_batch == 10
    for batch in sampler:
        drawn = [{(labels[i], cameras[i]) for i, _, _ in batch[start : start + 2]} for start in range(0, 10, 2)]
        assert sorted(pair for group in drawn for pair in group) == proxies
        assert all(labels[i] == label for i, label, _ in batch)
        for start in range(0, 10, 2):
            images = {i for i, _, _ in batch[start : start + 2]}
            assert images == {11} or len(images) == 2  # an image alone in its group is repeated


def test_random_batches_have_every_image_once_in_a_pass_outliers_as_well():
    labels = np.array([0, 0, -1, 1, 1, -1, 2, -1, 0, 1])
    sampler = RandomBatchSampler(labels, batch_size=3, num_batches=7, seed=0)
    batches = list(sampler)
    assert [len(batch) for batch in batches] == [3] * 7 == [sampler.images_per_batch] * len(sampler)
    assert all(label == labels[index] for batch in batches for index, label, _ in batch)
    passes = [[index for batch in batches[start : start + 3] for index, _, _ in batch] for start in (0, 3)]
    assert all(len(set(drawn)) == 9 for drawn in passes) and passes[0] != passes[1]
    assert batches == list(sampler) != list(RandomBatchSampler(labels, 3, 7, seed=1))


def test_fewer_images_than_a_batch_wants_are_all_in_it():
    sampler = RandomBatchSampler(np.full(5, -1), batch_size=8, num_batches=2, seed=0)
    assert [sorted(index for index, _, _ in batch) for batch in sampler] == [list(range(5))] * 2
    assert sampler.images_per_batch == 5
