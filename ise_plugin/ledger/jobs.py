"""What the command does with files: a ledger from a finished run, pictures into it, tables out of it."""

import json
import logging
import os
from contextlib import suppress
from typing import Optional, Sequence

import numpy as np

from ..config import CfgNode
from ..data.corrections import write_corrections
from ..data.datasets.folder import folder_rules
from ..data.sightings import Rule, Sighting, find_sightings
from ..errors import UsageError
from ..identities.groups import CSV_NAME, SUMMARY_NAME, harmless, read_csv
from ..inference.embedder import Embedder
from ..inference.jobs import EmbeddingJob, embed_files, list_files
from ..utils.files import digest_of, shown
from .batch import Batch
from .exchange_files import write_table
from .identity_ledger import FALSE_ACCEPT, Added, IdentityLedger
from .retraining import Relabelled, corrections, relabel

logger = logging.getLogger("fastreid.ise.ledger")


def init_from_run(path: str, run: str, device: str = "auto", weights: Optional[str] = None) -> IdentityLedger:
    """A ledger of the identities that a run on a folder has found.

    Raises:
        UsageError: the run has no identities.csv or no weights; something is at ``path`` already.
    """
    if os.path.lexists(path):
        raise UsageError(f"{shown(path)} is there already; name another --ledger, or remove it")
    rows = read_csv(os.path.join(run, CSV_NAME))
    folder, eps = _summary(os.path.join(run, SUMMARY_NAME))
    embedder = Embedder(run, weights, device)
    rules = _rules(embedder.cfg)
    kept = [row for row in rows if not row.same_file_as]  # copies come in as what they are
    order = [*kept, *(row for row in rows if row.same_file_as)]
    names = [row.path for row in order]
    seen = [s._replace(camera=s.camera or row.camera or None) for s, row in zip(find_sightings(rules, names), order)]
    files = [os.path.abspath(os.path.join(folder, name)) for name in names]
    job = _embed(embedder, files, path)
    batch, places = _batch(job, files, seen)
    labels = np.array([order[place].cluster for place in places], np.int64)
    likely = np.array([order[place].confidence or np.nan for place in places])
    ledger = IdentityLedger.create(path, batch, labels, embedder.fingerprint, os.path.abspath(run), likely, eps)
    _done(path)
    return ledger


def add_files(
    path: str,
    inputs: Sequence[str],
    false_accept: float = FALSE_ACCEPT,
    run: Optional[str] = None,
    rules: Optional[Sequence[Rule]] = None,
    device: str = "auto",
    weights: Optional[str] = None,
    wait: Optional[float] = None,
) -> Added:
    """Embeds pictures, and those of folders, and adds them. What an interrupted call has embedded is found again.

    Args:
        run: of the network; by default the one that the ledger remembers.
        rules: that tell cameras, tracks and times by paths below each folder; by default those of the run.

    Raises:
        UsageError: the network is another than the ledger's; a rule fits no path; too many pictures are unreadable.
    """
    with IdentityLedger(path) if wait is None else IdentityLedger(path, wait) as ledger:
        embedder = Embedder(run or ledger.model().run, weights, device)
        ledger.model(embedder.fingerprint)  # a wrong one shall not cost the embedding
        rules = _rules(embedder.cfg) if rules is None else rules
        files: list[str] = []
        seen: list[Sighting] = []
        for given in inputs:
            own = list_files([given])
            names = [os.path.relpath(name, given) if os.path.isdir(given) else os.path.basename(name) for name in own]
            files += map(os.path.abspath, own)
            seen += find_sightings(rules, names)
        job = _embed(embedder, files, path)
        batch, _ = _batch(job, files, seen)
        added = ledger.add(batch, embedder.fingerprint, false_accept)
        _done(path)
    return added


def write_ledger_corrections(ledger: IdentityLedger, path: str) -> tuple[int, int]:
    """Writes what people said of a ledger's images for ``ISE.CORRECTIONS``; how many pairs are one person, and two."""
    names = [row.path for row in ledger.images()]
    said = corrections(ledger, names)
    pairs = [[(names[a], names[b]) for a, b in part.tolist()] for part in said]
    write_corrections(path, *pairs)
    return len(pairs[0]), len(pairs[1])


def retrain_from_run(
    path: str,
    run: str,
    device: str = "auto",
    weights: Optional[str] = None,
    changes: Optional[str] = None,
) -> Relabelled:
    """Takes the groups of a new run on the ledger's images; images that the run did not see stay whose they are,
    or are decided of by what it knows.

    Args:
        changes: file for a line for each image that moved.

    Raises:
        UsageError: the run has no identities.csv or no weights; its groups do not hold to what people said; an image of the
            ledger is gone or cannot be read.
    """
    table = read_csv(os.path.join(run, CSV_NAME))
    folder, eps = _summary(os.path.join(run, SUMMARY_NAME))
    found = {os.path.realpath(os.path.join(folder, row.path)): row for row in table}
    with IdentityLedger(path) as ledger:
        names = [row.path for row in ledger.images()]
        embedder = Embedder(run, weights, device)
        job = _embed(embedder, names, path)
        rows = [found.get(os.path.realpath(name)) for name in job.embeddings.paths]
        labels = np.array([-1 if row is None else row.cluster for row in rows], np.int64)
        likely = np.array([row.confidence if row and row.confidence is not None else np.nan for row in rows])
        done = relabel(
            ledger,
            job.embeddings.paths,
            job.embeddings.vectors,
            labels,
            embedder.fingerprint,
            os.path.abspath(run),
            likely,
            eps,
            np.array([row is not None for row in rows], bool),
        )
        _done(path)
        if changes is not None:
            by_number = {row.image: row.path for row in ledger.images()}
            lines = [(harmless(by_number[image]), *people) for image, *people in done.moved]
            write_table(changes, ("path", "before", "after"), lines)
    return done


def _rules(cfg: CfgNode) -> list[Rule]:
    settings = cfg.DATASETS.FOLDER
    return folder_rules(settings.CAMERA_REGEX, "", settings.CAMERA_FOLDERS)


def _summary(path: str) -> tuple[str, Optional[float]]:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        return os.fspath(content["folder"]), content.get("eps")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{shown(path)} cannot be read ({error}); name a finished run on a folder") from error


def incoming(path: str) -> str:
    """Where embeddings wait, beside the ledger, until they are in it; path without ending."""
    return f"{path}.incoming"


def _embed(embedder: Embedder, files: Sequence[str], path: str) -> EmbeddingJob:
    return embed_files(embedder, files, incoming(path), ("npz",), max_bad_share=1.0)


def _done(path: str) -> None:
    with suppress(FileNotFoundError):
        os.remove(f"{incoming(path)}.npz")


def _batch(job: EmbeddingJob, files: Sequence[str], seen: Sequence[Sighting]) -> tuple[Batch, list[int]]:
    """The files that could be embedded, and their places among all."""
    if job.problems:
        logger.warning(f"{len(job.problems)} files were left out: {'; '.join(map(str, job.problems[:3]))}")
    place = {name: i for i, name in reversed(list(enumerate(files)))}
    places = [place[name] for name in job.embeddings.paths]
    digests = [_digest(name) for name in job.embeddings.paths]
    return Batch(job.embeddings.paths, job.embeddings.vectors, [seen[i] for i in places], digests), places


def _digest(path: str) -> Optional[bytes]:
    with suppress(OSError):
        return bytes.fromhex(digest_of(path))
    return None


def stats(ledger: IdentityLedger, false_accept: float = FALSE_ACCEPT) -> dict:
    """Counts, and what the calibration says, for :func:`ise_plugin.identities.groups.table_of`."""
    people, model = ledger.people(), ledger.model()
    verdicts = [row.verdict for row in ledger.images()]
    found: dict = {
        "people": len(people),
        "with a name": sum(bool(person.name) for person in people),
        "locked": sum(person.locked for person in people),
        "images": len(verdicts),
        "undecided": verdicts.count("undecided"),
        "network": model.fingerprint,
    }
    if model.calibration:
        threshold = model.calibration.threshold(false_accept, len(people))
        found[f"similarity for {false_accept:.2%} false accepts"] = round(threshold, 4)
        found["known images recognised there, estimated"] = f"{model.calibration.recognised(threshold):.0%}"
    return found
