"""What the command does: recordings into people, more recordings into the same people."""

import logging
import os
from typing import NamedTuple, Optional, Sequence, cast

import numpy as np

from ..data.sightings import Sighting
from ..errors import UsageError
from ..inference.embedder import Embedder
from ..inference.jobs import embed_files
from ..ledger import Batch, IdentityLedger
from ..ledger.identity_ledger import FALSE_ACCEPT, Added
from ..utils.files import digest_of, shown
from .crops import CutSettings
from .cutting import cut_recordings
from .networks import Network, load_network
from .people import group_crops, seen_together
from .results import CROPS, Results, recordings_in, write_results
from .training import train

logger = logging.getLogger("fastreid.ise.video")

LEDGER, RUN, EMBEDDINGS = "people.ledger", "run", "embeddings"
CONFIG = "ISE/folder_reid.yml"


class Training(NamedTuple):
    """How a network is trained on the crops: a config of the folder's kind, and words of key and value that change it."""

    config: str = CONFIG
    options: Sequence[str] = ()


def find_people(
    sources: Sequence[str],
    output: str,
    settings: CutSettings = CutSettings(),
    camera: str = "",
    model: Optional[str] = None,
    weights: Optional[str] = None,
    training: Training = Training(),
    device: str = "auto",
    processes: Optional[int] = None,
) -> Results:
    """Recordings -> people over all of them: crops, network, groups, ledger, files. Interrupted, the same call goes on.

    Args:
        sources: video files, folders of frames.
        output: folder for all of it.
        settings, camera, processes: of :func:`.cutting.cut_recordings`.
        model, weights: network to embed by, of :func:`.networks.load_network`; None: one is trained on the crops.
        device: to compute on.

    Raises:
        UsageError: no recording can be read; no person is in them; the ledger holds other recordings already.
    """
    crops, path = os.path.join(output, CROPS), os.path.join(output, LEDGER)
    cut_recordings(sources, crops, camera, settings, processes)
    paths, sightings = crops_in(output)
    if not os.path.exists(path):
        if model is None:
            run = os.path.join(output, RUN)
            train(training.config, run, crops, [*training.options, "MODEL.DEVICE", device])
            model = run
        network = load_network(model, weights, device)
        _begin_ledger(path, _embedded(output, network, paths, sightings), network, crops)
    with IdentityLedger(path) as ledger:
        known = {row.path for row in ledger.images()}
        if missing := set(paths) - known - set(_copies(ledger)):
            raise UsageError(
                f"{shown(path)} has people already, but not from {shown(min(missing))}; add recordings with ise-video add, "
                "or name another --output"
            )
        return write_results(output, ledger)


def add_recordings(
    sources: Sequence[str],
    output: str,
    settings: CutSettings = CutSettings(),
    camera: str = "",
    model: Optional[str] = None,
    weights: Optional[str] = None,
    false_accept: float = FALSE_ACCEPT,
    device: str = "auto",
    processes: Optional[int] = None,
) -> tuple[Added, Results]:
    """More recordings into the people of an output folder: known, new or undecided, and the files anew.

    Args:
        sources: video files, folders of frames, addresses.
        model: by default the network that the ledger remembers; others as for :func:`find_people`.
        false_accept: of :meth:`ise_plugin.ledger.IdentityLedger.add`.
    """
    path = os.path.join(output, LEDGER)
    with IdentityLedger(path) as ledger:
        network = load_network(model or ledger.model().run, weights, device)
        ledger.model(network.fingerprint)  # a wrong one shall not cost the work
        crops = os.path.join(output, CROPS)
        cut = cut_recordings(sources, crops, camera, settings, processes)
        paths, sightings = crops_in(output, [recording.name for recording in cut])
        batch = _embedded(output, network, paths, sightings)
        units = _tracks(batch.sightings)
        pairs = seen_together(units, batch.sightings, crops)
        added = ledger.add(batch, network.fingerprint, false_accept, apart=_image_pairs(units, pairs, batch.paths))
        return added, write_results(output, ledger)


def export(output: str) -> Results:
    """Writes the files anew, after corrections in the ledger."""
    with IdentityLedger(os.path.join(output, LEDGER)) as ledger:
        return write_results(output, ledger)


def crops_in(output: str, names: Optional[Sequence[str]] = None) -> tuple[list[str], list[Sighting]]:
    """Absolute paths of the crops of all recordings in an output folder, or of some, and what is known of each."""
    paths, sightings = [], []
    for name, about in recordings_in(output).items():
        if names is not None and name not in names:
            continue
        for file, track, time in about["crops"]:
            paths.append(os.path.abspath(os.path.join(output, CROPS, name, file)))
            sightings.append(Sighting(about["camera"], str(track), name, time, len(paths)))
    return paths, sightings


def _embedded(output: str, network: Network, paths: Sequence[str], sightings: Sequence[Sighting]) -> Batch:
    """What can be embedded of the crops; those of an interrupted call are found again."""
    place = {path: i for i, path in enumerate(paths)}
    job = embed_files(cast(Embedder, network), paths, os.path.join(output, EMBEDDINGS), ("npz",), max_bad_share=1.0)
    if job.problems:
        logger.warning(f"{len(job.problems)} crops were left out: {'; '.join(map(str, job.problems[:3]))}")
    known = [sightings[place[path]] for path in job.embeddings.paths]
    digests = [bytes.fromhex(digest_of(path)) for path in job.embeddings.paths]
    return Batch(job.embeddings.paths, job.embeddings.vectors, known, digests)


def _begin_ledger(path: str, batch: Batch, network: Network, crops: str) -> None:
    """There whole or not at all."""
    found = group_crops(batch.vectors, batch.sightings, batch.paths, crops)
    temporary = f"{path}.new"
    for left in (temporary, f"{temporary}-journal"):  # by a call that was killed
        if os.path.exists(left):
            os.remove(left)
    run = os.path.abspath(network.run) if os.path.exists(network.run) else network.run
    IdentityLedger.create(temporary, batch, found.labels, network.fingerprint, run, found.likely).close()
    os.replace(temporary, path)


def _copies(ledger: IdentityLedger) -> list[str]:
    """Other names of images, whose files have the same bytes."""
    rows = ledger.store.connection.execute("SELECT path FROM copies").fetchall()
    return [os.fsdecode(name) for (name,) in rows]


def _tracks(sightings: Sequence[Sighting]) -> np.ndarray:
    """(N,) int64, one number for the crops of a track."""
    keys: dict = {}
    return np.array([keys.setdefault((s.sequence, s.track), len(keys)) for s in sightings], np.int64)


def _image_pairs(units: np.ndarray, pairs: np.ndarray, paths: Sequence[str]) -> list[tuple[str, str]]:
    """A pair of crops for each pair of tracks."""
    first = {unit: paths[place] for place, unit in reversed(list(enumerate(units.tolist())))}
    return [(first[a], first[b]) for a, b in pairs.tolist()]
