"""What becomes of answers: they go into the ledger, and nothing that was said before is overruled."""

from typing import NamedTuple, Optional, Sequence

from ..errors import UsageError
from .identity_ledger import IdentityLedger


class Part(NamedTuple):
    """Images that stand for one another in a question.

    Attributes:
        person: their number; None: one undecided image.
        images: all numbers of them.
        shown: of these, the most typical ones, at most ``SHOWN``.
        own: whether it is a half of the person that the question is about.
        probability: that it shows the person that the question is about.
    """

    person: Optional[int]
    images: tuple
    shown: tuple
    own: bool
    probability: float


class Question(NamedTuple):
    """Which of the others show the same person as ``about``? ``gain``: images' worth that the answer is expected to put right."""

    about: Part
    others: tuple
    gain: float


class Said(NamedTuple):
    """An answer about one of the others: whether it is the same person; None: unsure.

    Images rather than people, so that it can be taken up later: who has these images may have changed.

    Attributes:
        about, other: numbers of the most typical images.
        images: of the other, where it is a half of the person; else empty.
    """

    about: int
    other: int
    images: tuple
    same: Optional[bool]


def said_of(question: Question, same: Sequence[Optional[bool]]) -> list[Said]:
    """What an answer says, for :func:`apply`."""
    return [
        Said(question.about.shown[0], part.shown[0], part.images if part.own else (), said)
        for part, said in zip(question.others, same)
    ]


def apply(ledger: IdentityLedger, answers: Sequence[Sequence[Said]]) -> list[str]:
    """Writes answers into a ledger as one change: halves that differ are split, people who are one merged, an undecided image
    goes to its person, and what was said is held to when labelled anew.

    Returns:
        a line for each that could not be taken, because of a lock or of another answer; the others are.
    """
    refused = []
    with ledger.store.change("review") as change:
        count = 0
        for said in (one for answer in answers for one in sorted(answer, key=lambda one: not one.images)):
            if said.same is None:
                continue
            try:
                with ledger.store.change("review"):
                    _apply(ledger, said)
                count += 1
            except UsageError as error:
                refused.append(str(error))
        ledger.store.describe(change, f"{count} answers")
    return refused


def _apply(ledger: IdentityLedger, said: Said) -> None:
    person, other = (ledger.image(image).person for image in (said.about, said.other))
    if said.same is False and said.images and person is not None and person == other:
        own = set(ledger.images_of(person))
        ledger.split(person, [image for image in said.images if image in own])
    elif said.same is False or person == other:
        ledger.answer(said.about, said.other, bool(said.same))
    elif person is None or other is None:
        image, owner = (said.about, other) if person is None else (said.other, person)
        ledger.decide_by_person([image], owner)
        ledger.answer(said.about, said.other, True)
    else:
        named = [number for number in (person, other) if ledger.require(number).name]
        kept = named[0] if named else min(person, other)
        ledger.merge(kept, other if kept == person else person)
