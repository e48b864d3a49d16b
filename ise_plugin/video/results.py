"""What a ledger says of recordings, written anew at any time: MOT files with people's numbers, a timeline, a report."""

import logging
import os
from collections import defaultdict
from typing import Iterable, Iterator, NamedTuple, Optional

from ..data.mot import SOURCE, read_source
from ..errors import UsageError
from ..identities.groups import harmless
from ..ledger import IdentityLedger
from ..ledger.exchange_files import write_table
from ..report import figures
from ..report.page import render
from ..utils.files import shown, write_atomically, written_whole
from .people import Nearest, TrackedBox, tracked_boxes

logger = logging.getLogger("fastreid.ise.video")

CROPS, MOT_FILES, TIMELINE, REPORT = "crops", "identities", "timeline.csv", "report.html"
COLUMNS = ("person", "name", "camera", "recording", "from", "to", "frames")
# Seconds without a box after which somebody who comes back begins another visit.
_AWAY = 2.0
# People of the picture: more would be lines of a pixel.
_MOST_DRAWN = 40


class Visit(NamedTuple):
    """A person was seen by a camera from one time of a recording to another, in seconds, in so many frames."""

    person: int
    name: str
    camera: str
    recording: str
    start: float
    end: float
    frames: int


class Results(NamedTuple):
    """How many people were seen, in how many recordings; their visits; how many pairs of boxes of one frame have one number."""

    people: int
    recordings: int
    visits: list
    clashes: int


def recordings_in(output: str) -> dict[str, dict]:
    """Name -> what is known of each recording that was cut into an output folder."""
    crops = os.path.join(output, CROPS)
    names = sorted(os.listdir(crops)) if os.path.isdir(crops) else []
    places = {name: os.path.join(crops, name) for name in names}
    found = {name: read_source(place) for name, place in places.items() if os.path.isfile(os.path.join(place, SOURCE))}
    if not found:
        raise UsageError(f"{shown(output)} holds no recordings; name the --output of ise-video identities")
    return {name: about for name, about in found.items() if about is not None}


def write_results(output: str, ledger: IdentityLedger) -> Results:
    """Writes ``identities/RECORDING.txt`` (MOT, tracks are people; boxes that nothing is known of are left out), timeline.csv and
    report.html. A box has the person of the crop of its track that is nearest in time."""
    people = {os.path.abspath(row.path): row.person for row in ledger.images()}
    names = {person.number: person.name for person in ledger.people()}
    os.makedirs(os.path.join(output, MOT_FILES), exist_ok=True)
    visits: list[Visit] = []
    clashes = 0
    recordings = recordings_in(output)
    for name, about in recordings.items():
        place = os.path.join(output, CROPS, name)
        known = [people.get(os.path.abspath(os.path.join(place, file))) for file, _, _ in about["crops"]]
        nearest = Nearest([row[1] for row in about["crops"]], [row[2] for row in about["crops"]], known)
        found = _Visits(name, about["camera"], names)
        with written_whole(os.path.join(output, MOT_FILES, f"{name}.txt")) as temporary, open(temporary, "w") as file:
            for row, person in with_people(place, nearest):
                left, top, width, height = row.box
                file.write(f"{row.frame},{person},{left},{top},{width},{height},{row.score},-1,-1,-1\n")
                found.add(row, person)
        visits += found.finished()
        clashes += found.clashes
    visits.sort(key=lambda visit: (visit.person, visit.recording, visit.start))
    if clashes:
        logger.warning(
            f"{clashes} boxes have the number of somebody else in the same frame, by what was said in the ledger"
        )
    _write_timeline(os.path.join(output, TIMELINE), visits)
    results = Results(len({visit.person for visit in visits}), len(recordings), visits, clashes)
    write_atomically(os.path.join(output, REPORT), _page(output, results, recordings).encode())
    return results


def with_people(place: str, nearest: Nearest) -> Iterator[tuple[TrackedBox, int]]:
    """The tracked boxes of a recording's folder whose person is known."""
    for row in tracked_boxes(place):
        person = nearest.of(row.track, row.time)
        if person is not None:
            yield row, person


class _Visits:
    """Boxes of a recording, frame after frame, put together to visits."""

    def __init__(self, recording: str, camera: str, names: dict[int, str]):
        self._recording, self._camera, self._names = recording, camera, names
        self._open: dict[int, list] = {}  # person -> start, end, frames, last frame
        self._done: list[Visit] = []
        self.clashes = 0

    def add(self, row: TrackedBox, person: int) -> None:
        visit = self._open.get(person)
        if visit is not None and visit[3] == row.frame:
            self.clashes += 1
        elif visit is not None and row.time - visit[1] <= _AWAY:
            visit[1:] = row.time, visit[2] + 1, row.frame
        else:
            self._close(person)
            self._open[person] = [row.time, row.time, 1, row.frame]

    def _close(self, person: int) -> None:
        if person in self._open:
            start, end, frames, _ = self._open.pop(person)
            name = self._names.get(person, "")
            self._done.append(Visit(person, name, self._camera, self._recording, start, end, frames))

    def finished(self) -> list[Visit]:
        for person in list(self._open):
            self._close(person)
        return self._done


def _write_timeline(path: str, visits: Iterable[Visit]) -> None:
    rows = [
        (
            visit.person,
            *map(harmless, (visit.name, visit.camera, visit.recording)),
            round(visit.start, 3),
            round(visit.end, 3),
            visit.frames,
        )
        for visit in visits
    ]
    write_table(path, COLUMNS, rows)


def _page(output: str, results: Results, recordings: dict[str, dict]) -> str:
    by_person: dict[int, list[Visit]] = defaultdict(list)
    for visit in results.visits:
        by_person[visit.person].append(visit)
    rows = [
        (
            f"{person} {visits[0].name}".strip(),
            ", ".join(sorted({visit.camera for visit in visits})),
            len(visits),
            f"{sum(visit.end - visit.start for visit in visits):.1f}",
        )
        for person, visits in sorted(by_person.items())
    ]
    lost = [
        f"{name}: {about['skipped']} frames could not be decoded"
        for name, about in recordings.items()
        if about["skipped"]
    ]
    cut = [(name, about["camera"], about["frames"], len(about["crops"])) for name, about in recordings.items()]
    return render(
        "video.html", name=os.path.basename(os.path.abspath(output)), rows=rows, recordings=cut, problems=lost,
        results=results, drawn=_drawn(by_person),
    )  # fmt: skip


def _drawn(by_person: dict[int, list[Visit]]) -> Optional[list]:
    """The timeline as a picture; None without matplotlib."""
    if not figures.available():
        return None
    most = sorted(by_person, key=lambda person: -sum(visit.frames for visit in by_person[person]))[:_MOST_DRAWN]
    cameras = sorted({visit.camera for visits in by_person.values() for visit in visits})
    bars = [
        (camera, [(str(p), v.start, v.end) for p in sorted(most) for v in by_person[p] if v.camera == camera])
        for camera in cameras
    ]
    caption = "when each person was seen, in seconds of the recording"
    if len(by_person) > len(most):
        caption += f"; the {len(most)} of {len(by_person)} people who were seen longest"
    people = [str(person) for person in sorted(most)]
    return [figures.Figures().draw(figures.timeline, "Timeline", bars, people, caption=caption)] if people else []
