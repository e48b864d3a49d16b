"""A batch of images on its way into a ledger's tables: what is there already, and what is not."""

import logging
from typing import NamedTuple

from ..utils.files import shown
from ..utils.logs import some_of
from .batch import Batch, image_rows, to_bytes, to_text
from .store import Store
from .vectors import DTYPE

logger = logging.getLogger("fastreid.ise.ledger")

_NAMED_IN_MESSAGES = 3


class Incoming(NamedTuple):
    """Places in a batch of images that are new; other names of files that are known: name -> path of the image."""

    new: list
    copies: dict


def look_up(store: Store, batch: Batch) -> Incoming:
    """What of a batch is new; warns of files that have changed."""
    paths, digests = _known_files(store, batch)
    new, copies, changed = [], {}, []
    mine: dict = {}
    for place, (path, digest) in enumerate(zip(map(to_bytes, batch.paths), batch.digests)):
        if path in paths:
            known = paths[path]
            changed += [batch.paths[place]] * (None not in (known, digest) and known != digest)
        elif digest is not None and digest in digests:
            copies[batch.paths[place]] = digests[digest]
        elif digest is not None and digest in mine:
            copies[batch.paths[place]] = batch.paths[mine[digest]]
        else:
            new.append(place)
            mine[digest] = place
        paths.setdefault(path, digest)
    if changed:
        names = some_of([shown(path) for path in changed], _NAMED_IN_MESSAGES)
        logger.warning(
            f"{len(changed)} files are others than when they were added: {names}; give new pictures new names"
        )
    return Incoming(new, copies)


def _known_files(store: Store, batch: Batch) -> tuple[dict, dict]:
    """Of the batch's files that are there: path -> digest, of images and of copies; digest -> path of the image."""
    paths = [to_bytes(path) for path in batch.paths]
    known = store.find("SELECT path, digest FROM images WHERE path", paths)
    query = "SELECT copies.path, digest FROM copies JOIN images ON images.id = copies.image WHERE copies.path"
    named = store.find(query, paths)
    same = store.find("SELECT digest, path FROM images WHERE digest", [one for one in batch.digests if one is not None])
    return dict(known + named), {digest: to_text(path) for digest, path in same}


def insert_images(store: Store, batch: Batch, model: int) -> list[int]:
    """Writes images and their embeddings; their numbers."""
    images = store.insert("images", image_rows(batch))
    vectors = batch.vectors.astype(DTYPE, copy=False)
    store.insert("embeddings", ((model, vector.tobytes()) for vector in vectors), images)
    return images


def keep_copies(store: Store, copies: dict) -> None:
    """Writes other names of known files, and says so, once: next time they are known."""
    if not copies:
        return
    number = dict(store.find("SELECT path, id FROM images WHERE path", [to_bytes(first) for first in copies.values()]))
    store.insert("copies", [(to_bytes(path), number[to_bytes(first)]) for path, first in copies.items()])
    named = [f"{shown(path)} is {shown(first)}" for path, first in copies.items()]
    logger.warning(f"{len(copies)} files are there under another name: {some_of(named, _NAMED_IN_MESSAGES)}")
