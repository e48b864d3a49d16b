"""Drawn people: embeddings around a direction for each, with a shift for each camera."""

import hashlib
import json
import re
import time

import numpy as np

from ise_plugin.data.sightings import Sighting
from ise_plugin.ledger import Batch, IdentityLedger

WIDTH = 32
FINGERPRINT = "0123456789abcdef"


def draw(people, images=8, seed=0, spread=0.5, cameras=3, tracks=False):
    """A batch of so many images of each of some people (numbers), and the number of each image's person."""
    rng = np.random.default_rng(seed)
    shifts = np.random.default_rng(99).normal(size=(cameras, WIDTH))
    vectors, paths, sightings, who = [], [], [], []
    for person in people:
        center = np.random.default_rng([7, person]).normal(size=WIDTH)
        for image in range(images):
            camera = int(rng.integers(cameras))
            vector = center + spread * rng.normal(size=WIDTH) + 0.2 * shifts[camera]
            vectors.append(vector / np.linalg.norm(vector))
            paths.append(f"crops/{seed}/{person:04d}_{image:03d}.jpg")
            track = f"t{seed}_{person}_{image // 4}" if tracks else None
            sightings.append(
                Sighting(camera=f"c{camera if not tracks else image // 4}", track=track, time=float(image))
            )
            who.append(person)
    digests = [hashlib.sha256(path.encode()).digest() for path in paths]
    return Batch(paths, np.array(vectors, np.float32), sightings, digests), np.array(who)


def new_ledger(path, people=range(12), **options):
    """A ledger of drawn people, whose groups are right."""
    batch, who = draw(people, **options)
    return IdentityLedger.create(str(path), batch, np.unique(who, return_inverse=True)[1], FINGERPRINT, "run")


def dump(ledger):
    return "\n".join(ledger.dump())


def change_forever(ready, path, kind):
    """In a process that is killed: adds or merges and undoes it, again and again; or forgets, once."""
    from ise_plugin.ledger.forgetting import forget

    with IdentityLedger(path) as ledger:
        batch, _ = draw([0, 1, 30], images=4, seed=4)
        ready.set()
        if kind == "forget":
            forget(ledger, 3)
        while kind != "forget":
            ledger.add(batch, FINGERPRINT) if kind == "add" else ledger.merge(1, 2, 3)
            ledger.undo()


def write_slowly(ready, path, seconds):
    """A change that takes so long."""
    with IdentityLedger(path) as ledger, ledger.store.writing("a long change"):
        ready.set()
        time.sleep(float(seconds))


def page_content(page):
    """What a page of questions has for its script."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(found[1])
