from dataclasses import fields

import pytest
from synthetic_persons import Stream, sample_identity, stream
from synthetic_persons.people import LOOK_ALIKE_CHANGES


def differing(a, b):
    return {f.name for f in fields(a) if getattr(a, f.name) != getattr(b, f.name)}


def test_an_identity_depends_on_seed_and_number_only():
    first = sample_identity(3, 17)
    sample_identity(3, 16)
    assert sample_identity(3, 17) == first
    assert sample_identity(4, 17) != first
    assert sample_identity(3, 18) != first
    assert sample_identity(3, 17, Stream.STRANGER) != first


def test_every_eighth_number_looks_like_the_one_before():
    body = {"height", "build", "stride", "skin"}
    for number in range(7, 240, 8):
        one, other = sample_identity(0, number), sample_identity(0, number - 1)
        changed = differing(one, other)
        assert (one.upper.kind, one.upper.pattern) == (other.upper.kind, other.upper.pattern)
        changed -= {"upper"}
        assert len(changed - body) <= LOOK_ALIKE_CHANGES + 1
        assert changed - body  # but something to wear tells them apart


def test_the_wardrobe_is_limited():
    people = [sample_identity(0, number) for number in range(200) if number % 8 != 7]
    kinds = {(p.upper.kind, p.upper.pattern) for p in people}
    assert len(kinds) < len(people) / 2


def test_streams_differ_by_purpose_and_key():
    image = Stream.IMAGE
    different = [(0, image, 1), (0, image, 1, 0), (0, Stream.TRACK, 1), (1, image, 1), (0, image)]
    assert len({stream(*arguments).random() for arguments in different}) == len(different)
    assert stream(0, Stream.IMAGE, 1).random() == stream(0, Stream.IMAGE, 1).random()


@pytest.mark.parametrize("arguments", [(-1, Stream.IMAGE), (0, Stream.IMAGE, -2)])
def test_negative_seeds_and_keys_are_refused(arguments):
    with pytest.raises(ValueError, match="-"):
        stream(*arguments)
