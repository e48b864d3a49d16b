"""Cycle association and tracklet labels: the papers' equations by hand, what is drawn, and a few steps from the configs."""

import math

import numpy as np
import pytest
import torch
from helpers import load_project, train_project
from scipy.sparse import csr_matrix

from ise_plugin.errors import UsageError


@pytest.fixture(scope="module")
def tracklets():
    return load_project("Tracklets/tracklets.py")


@pytest.mark.parametrize("count", [1, 2, 10, 1000])
@pytest.mark.parametrize("epsilon, delta", [(0.5, 0.5), (0.2, 0.9)])
def test_a_lead_of_epsilon_is_a_lead_of_delta_among_any_number(tracklets, count, epsilon, delta):
    factor = tracklets.adaptive_factor(count, epsilon, delta)
    assert factor == pytest.approx(math.log((delta * (count - 1) + 1) / (1 - delta)) / epsilon)
    similarity = torch.zeros(count, dtype=torch.float64)
    similarity[0] = epsilon
    probability = (factor * similarity).softmax(0)
    if count > 1:
        assert float(probability[0] - probability[1]) == pytest.approx(delta)


def test_cycle_matrix_by_hand(tracklets):
    first, second = torch.eye(2), torch.tensor([[0.6, 0.8]])
    # one candidate in the second frame: everybody goes there; back among two, with factor log((0.5 * 1 + 1) / 0.5) / 0.5
    factor = 2 * math.log(3)
    back = math.exp(factor * 0.6) / (math.exp(factor * 0.6) + math.exp(factor * 0.8))
    cycle = tracklets.cycle_matrix(first, second)
    assert torch.allclose(cycle, torch.tensor([[back, 1 - back]] * 2))
    # and the other way round the one comes back to himself
    assert tracklets.cycle_matrix(second, first).tolist() == [[pytest.approx(1)]]


def test_those_who_are_told_apart_come_back(tracklets):
    frame, order = torch.eye(6), torch.randperm(6, generator=torch.Generator().manual_seed(0))
    cycle = tracklets.cycle_matrix(frame, frame[order], epsilon=0.1, delta=0.9)
    assert torch.allclose(cycle, torch.eye(6), atol=1e-3)
    assert float(tracklets.symmetric_cycle_loss(cycle)) < 1e-2 and float(tracklets.asymmetric_cycle_loss(cycle)) == 0


def test_losses_by_hand(tracklets):
    cycle = torch.tensor([[0.7, 0.3, 0.0], [0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])
    assert float(tracklets.symmetric_cycle_loss(cycle)) == pytest.approx((0.6 + 1.4 + 0.4) / 3)
    # rows: 0.3 - 0.7 + 0.5, 0.5 - 0.3 + 0.5, 0.1 - 0.8 + 0.5 < 0; columns: 0.2 - 0.7 + 0.5, 0.3 - 0.3 + 0.5, 0.5 - 0.8 + 0.5
    assert float(tracklets.asymmetric_cycle_loss(cycle, 0.5)) == pytest.approx((0.1 + 0.7) / 3 + (0.5 + 0.2) / 3)
    assert float(tracklets.asymmetric_cycle_loss(cycle, 0.0)) == pytest.approx(0.2 / 3)


def test_one_person_alone_has_nobody_to_be_confused_with(tracklets):
    one = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss = tracklets.asymmetric_cycle_loss(tracklets.cycle_matrix(one, one))
    loss.backward()
    assert float(loss.detach()) == 0 and torch.isfinite(one.grad).all()


def test_loss_of_a_batch_goes_round_every_pair_from_both_frames(tracklets):
    features = torch.nn.functional.normalize(torch.randn(12, 5, generator=torch.Generator().manual_seed(1)))
    loss = tracklets.CycleAssociationLoss(pair_size=6)({"features": features})["loss_cycle"]
    expected = []
    for pair in (features[:6], features[6:]):
        for one, two in ((pair[:3], pair[3:]), (pair[3:], pair[:3])):
            expected.append(float(tracklets.asymmetric_cycle_loss(tracklets.cycle_matrix(one, two))))
    assert float(loss) == pytest.approx(np.mean(expected))


def test_training_by_cycles_alone_tells_persons_apart(tracklets):
    """Persons differ in 4 of 16 numbers, the others are noise, new in every pair of frames; nobody says who is who."""
    generator = torch.Generator().manual_seed(0)
    persons = torch.randn(8, 4, generator=generator).repeat(2, 1)
    projection = torch.eye(16).requires_grad_()
    loss = tracklets.CycleAssociationLoss(pair_size=16)
    optimizer = torch.optim.Adam([projection], lr=0.02)

    def embed():
        images = torch.cat([persons, torch.randn(16, 12, generator=generator)], 1)
        return torch.nn.functional.normalize(images @ projection)

    def found():
        pairs = [embed().detach().chunk(2) for _ in range(20)]
        return np.mean([((one @ two.t()).argmax(1) == torch.arange(8)).double().mean() for one, two in pairs])

    before = found()
    for _ in range(200):
        optimizer.zero_grad()
        loss({"features": embed()})["loss_cycle"].backward()
        optimizer.step()
    assert before < 0.7 and found() > 0.95


@pytest.mark.parametrize("wrong", [{"pair_size": 5}, {"epsilon": 0.0}, {"delta": 1.0}, {"margin": -1.0}])
def test_impossible_settings_are_refused(tracklets, wrong):
    with pytest.raises(UsageError, match="CycleAssociationLoss needs"):
        tracklets.CycleAssociationLoss(**{"pair_size": 4, **wrong})


def walks(persons, frames, cameras=2):
    """Each person walks alone past one camera: cameras, times and persons of the images."""
    who = np.repeat(np.arange(persons), frames)
    times = np.tile(np.arange(frames) * 25.0, persons) + who * 1000
    return who % cameras, times, who


def test_frames_are_of_one_camera_and_the_second_follows_the_first(tracklets):
    cameras, times, who = walks(persons=20, frames=4)
    pairs = tracklets.FramePairs(cameras, times, size=5, max_gap=50.0, separation=100.0)
    for seed in range(20):
        images = pairs.draw(np.random.default_rng(seed))
        first, second = images[:5], images[5:]
        assert len(set(cameras[images])) == 1 and len(set(who[first])) == 5
        assert who[first].tolist() == who[second].tolist()
        assert set(times[second] - times[first]) <= {25.0, 50.0}


def test_strangers_are_in_the_second_frame_alone(tracklets):
    cameras, times, who = walks(persons=30, frames=3)
    pairs = tracklets.FramePairs(cameras, times, size=8, max_gap=25.0, separation=100.0, unmatched=0.25)
    images = pairs.draw(np.random.default_rng(0))
    assert who[images[8:14]].tolist() == who[images[:6]].tolist()
    assert not set(who[images[14:]]) & set(who[images[:8]])


def test_frames_of_a_crowd_are_true_frames(tracklets):
    times = np.repeat(np.arange(40) * 10.0, 6)  # six persons in every frame
    pairs = tracklets.FramePairs(np.zeros(240, np.int64), times, size=6, max_gap=10.0)
    images = pairs.draw(np.random.default_rng(0))
    (first,), (second,) = set(times[images[:6]]), set(times[images[6:]])
    assert second - first == 10


def test_images_of_unknown_camera_or_time_are_not_drawn(tracklets):
    cameras, times, _ = walks(persons=8, frames=3, cameras=1)
    cameras[:3], times[3:6] = -1, np.nan
    pairs = tracklets.FramePairs(cameras, times, size=2, max_gap=25.0)
    drawn = {int(i) for seed in range(100) for i in pairs.draw(np.random.default_rng(seed))}
    assert drawn == set(range(6, 24))


def test_too_few_moments_are_refused(tracklets):
    cameras, times, _ = walks(persons=4, frames=2, cameras=1)
    with pytest.raises(UsageError, match="no camera has 5 moments"):
        tracklets.FramePairs(cameras, times, size=5, max_gap=25.0)


def test_every_track_is_a_class(tracklets):
    labels = tracklets.TrackletClusters(None).fit_predict(csr_matrix((6, 6)), np.array([7, 2, 7, 5, 2, 0]))
    assert labels.tolist() == [0, 1, 0, 2, 1, 3] and labels.dtype == np.int64
    with pytest.raises(UsageError, match="needs tracks"):
        tracklets.TrackletClusters(None).fit_predict(csr_matrix((6, 6)))


def test_names_tell_walks_and_frames(tracklets):
    sighting = tracklets.SyntheticWalks.sighting(None, "/data/0012_c3s2_000451_01.jpg")
    assert (sighting.track, sighting.sequence, sighting.time) == ("0012_c3", "2", 451.0)
    one, two = (tracklets.Market1501Frames.sighting(None, f"0002_c1s1_000451_0{n}.jpg") for n in (1, 2))
    assert one.time == two.time == 451.0 and one.track != two.track


@pytest.fixture
def tiny_walks(tracklets, tiny_dataset):
    """The walks of the tiny data set under the name that the configs have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracklets.SyntheticWalks, "size", "tiny")
        yield ["DATASETS.NAMES", "('SyntheticWalks',)", "DATASETS.TESTS", "()"]


def test_cycles_run_from_the_config(tiny_walks, tmp_path):
    options = ["DATALOADER.NUM_INSTANCE", "8", "ISE.OWN.TRACKLETS.UNMATCHED", "0.25"]
    trainer = train_project("Tracklets/configs/synthetic.yml", tmp_path / "run", *tiny_walks, *options)
    assert np.isfinite([value for value, _ in trainer.storage.history("loss_cycle").values()]).all()
    images, sampler = trainer.images, trainer.step.data_loader.batch_sampler
    for batch in sampler:
        for pair in np.array([index for index, *_ in batch]).reshape(2, 8):
            assert len(set(images.cameras[pair])) == 1
            gaps = images.times[pair[4:7]] - images.times[pair[:3]]
            assert ((gaps > 0) & (gaps <= 100)).all()


def test_tracklets_run_from_the_config(tiny_walks, tmp_path):
    trainer = train_project("Tracklets/configs/synthetic_tracklets.yml", tmp_path / "run", *tiny_walks)
    labels, tracks = trainer.pseudo_labels.labels, trainer.images.tracks
    assert (labels >= 0).all() and len(set(labels)) == len(set(tracks)) == len(set(zip(labels, tracks))) == 40
    losses = [value for value, _ in trainer.storage.history("loss_intra").values()]
    assert np.isfinite(losses).all() and len(losses) == 4 and "loss_inter" not in trainer.storage.histories()
