"""What is decided of images that come into a ledger, and where it is written."""

import logging
from collections import Counter
from typing import Iterable, Optional, Sequence

import numpy as np

from ..clustering.calibration import MOST_IMAGES, Calibration, calibrate, some_groups
from .batch import Batch, image_rows, to_bytes, unit_keys
from .decide import CONTEXT, NEW, UNDECIDED, Decided, Gallery, Near, decide
from .incoming import insert_images
from .reading import LedgerReader, Model
from .store import Store

logger = logging.getLogger("fastreid.ise.ledger")

# The calibration is made anew when there are so many times the people that it rests on.
_GROWTH = 1.2


def fill(
    store: Store,
    batch: Batch,
    labels: np.ndarray,
    fingerprint: str,
    run: str,
    probabilities: Optional[np.ndarray],
    eps: Optional[float],
) -> None:
    """Writes the groups of a run into an empty ledger; arguments as of :meth:`.IdentityLedger.create`."""
    units = unit_keys([row[2:5] for row in image_rows(batch)])
    calibration = calibrate(batch.vectors, labels, units, eps=eps)
    if calibration is None:
        logger.warning("there are too few groups to tell what a similarity means; add leaves everything undecided")
    text = calibration and calibration.to_json()
    model = store.insert("models", [(fingerprint, to_bytes(run), batch.vectors.shape[1], text)])[0]
    kept, of = np.unique(labels, return_inverse=True)
    kept, of = kept[kept >= 0], of - (kept < 0).sum()
    people = store.insert("people", [(None, 0, None)] * len(kept))
    images = insert_images(store, batch, model)
    likely = [None] * len(labels) if probabilities is None else probabilities.tolist()
    rows = [
        (UNDECIDED, None, None, None, "init") if person < 0 else (NEW, people[person], None, chance, "init")
        for person, chance in zip(of.tolist(), likely)
    ]
    store.insert("decisions", rows, images)


def add_new(
    ledger: LedgerReader, batch: Batch, model: Model, false_accept: float, apart: Sequence[tuple[str, str]]
) -> tuple[Counter, list]:
    """Writes images that are not there yet, and decides of them and of undecided ones that they are like.

    Args:
        apart: pairs of paths of the batch whose tracks are two people.

    Returns:
        counts of verdicts, numbers of new people.
    """
    if not len(batch.paths):
        return Counter(), []
    gallery, numbers = ledger.gallery()
    near = gallery.near(batch.vectors)
    beside = np.unique(near.places[:, :CONTEXT])
    waiting = _tracks_of(ledger, numbers[beside[gallery.people[beside] < 0]])
    images = insert_images(ledger.store, batch, model.number)
    if model.calibration is None:
        ledger.store.insert("decisions", [(UNDECIDED, None, None, None, "program")] * len(images), images)
        return Counter({UNDECIDED: len(images)}), []
    vectors = batch.vectors
    if len(waiting):
        rows = gallery.rows(np.searchsorted(numbers, waiting))
        near = Near(*map(np.concatenate, zip(gallery.near(rows), near)))
        vectors = np.concatenate([rows, batch.vectors])
    calibration = _fresh(ledger, model, gallery, numbers)
    everything = np.r_[waiting, images].astype(np.int64)
    units = ledger.units(everything)
    unit_of = dict(zip(batch.paths, units[len(waiting) :].tolist()))
    known = {(unit_of[a], unit_of[b]) for a, b in apart if a in unit_of and b in unit_of}
    pairs = np.array(sorted(known), np.int64).reshape(-1, 2)
    _delete_decisions(ledger, waiting)
    return _write(ledger, everything, decide(vectors, units, near, gallery, calibration, false_accept, pairs))


def add_again(ledger: LedgerReader, images: Sequence[int], false_accept: float) -> list[int]:
    """Decides of images that are nobody's, as of new ones; numbers of new people. Others stay."""
    model, (gallery, numbers) = ledger.model(), ledger.gallery()
    places = np.flatnonzero(np.isin(numbers, images) & (gallery.people < 0))
    if model.calibration is None or not len(places):
        return []
    waiting, vectors = numbers[places], gallery.rows(places)
    _delete_decisions(ledger, waiting)
    units, near = ledger.units(waiting), gallery.near(vectors)
    return _write(ledger, waiting, decide(vectors, units, near, gallery, model.calibration, false_accept))[1]


def _write(ledger: LedgerReader, images: np.ndarray, decided: Decided) -> tuple[Counter, list]:
    """Writes what was decided of images that have no decision; counts of verdicts, numbers of new people."""
    groups = range(int(decided.people[decided.verdicts == NEW].max(initial=-1)) + 1)
    people = ledger.store.insert("people", [(None, 0, None)] * len(groups))
    rows = []
    for verdict, person, candidate, probability in zip(*map(np.ndarray.tolist, decided)):
        number = None if person < 0 else people[person] if verdict == NEW else person
        rows.append((verdict, number, None if candidate < 0 else candidate, round(probability, 6), "program"))
    ledger.store.insert("decisions", rows, images.tolist())
    return Counter(row[0] for row in rows), people


def _fresh(ledger: LedgerReader, model: Model, gallery: Gallery, images: np.ndarray) -> Calibration:
    """The calibration, made anew where it rests on far fewer people than there are and could rest on more."""
    old, people = model.calibration, len(gallery.trust)
    assert old is not None
    if old.images >= MOST_IMAGES or people < _GROWTH * old.people:
        return old
    run = ledger.store.connection.execute
    sure = [image for (image,) in run("SELECT id FROM decisions WHERE source = 'person' AND person IS NOT NULL")]
    places = some_groups(gallery.people)
    kept = images[places]
    found = calibrate(gallery.rows(places), gallery.people[places], ledger.units(kept), np.isin(kept, sure), old.eps)
    if found is None:
        return old
    run("UPDATE models SET calibration = ? WHERE id = ?", (found.to_json(), model.number))
    return found


def _tracks_of(ledger: LedgerReader, images: np.ndarray) -> np.ndarray:
    """Undecided images and the other undecided ones of their tracks, ascending."""
    found = set(images.tolist())
    rows = ledger.store.find("SELECT camera, track, sequence FROM images WHERE track NOT NULL AND id", images.tolist())
    for camera, track, sequence in set(rows):
        same = ledger.store.connection.execute(
            "SELECT id FROM images JOIN decisions USING (id) WHERE track = ? AND camera IS ? AND sequence IS ? "
            "AND person IS NULL",
            (track, camera, sequence),
        )
        found.update(image for (image,) in same)
    return np.array(sorted(found), np.int64)


def _delete_decisions(ledger: LedgerReader, images: Iterable) -> None:
    ledger.store.connection.executemany("DELETE FROM decisions WHERE id = ?", [(int(image),) for image in images])
