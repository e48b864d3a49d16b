"""What the tools do with a network: embed files into a store; search for query images, as table, JSON and picture."""

import importlib.util
import io
import json
import logging
import os
import re
from typing import NamedTuple, Optional, Sequence

import numpy as np
from tabulate import tabulate

from ..clustering.calibration import Calibration
from ..data.image_files import check_share, find_images, warn_of_input_size
from ..data.reading import ReadFile
from ..data.thumbnails import Row, draw_rows
from ..errors import UsageError
from ..utils.files import identical_files, shown, write_atomically
from ..utils.parallel import progress_bar
from .embedder import Embedder
from .embeddings import FORMATS, Embeddings, EmbeddingStore
from .index import Match, SearchIndex

logger = logging.getLogger("fastreid.ise.search")

RERANKED = (
    "In the order of re-ranking: a match counts for the neighbours that it shares with the query as well, so the "
    "similarities, which are cosines of the embeddings, need not fall."
)

_ENDING = re.compile(rf"\.({'|'.join(FORMATS)})$", re.IGNORECASE)
_PICTURE_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
# More would make a picture that programs refuse to show: 3,500 x 15,000 pixels.
MOST_QUERIES, MOST_MATCHES = 100, 50


class EmbeddingJob(NamedTuple):
    """Embeddings of all files, how many were not there before, the files that gave none, and the files written."""

    embeddings: Embeddings
    new: int
    problems: list
    files: list


def list_files(inputs: Sequence[str]) -> list[str]:
    """Files as they are, folders as the pictures in them; each path once, in the order given.

    UsageError where a folder holds no picture; a file that is not there turns up when it is read.
    """
    files: list[str] = []
    for path in inputs:
        files += [os.path.join(path, name) for name in find_images(path)] if os.path.isdir(path) else [path]
    return list(dict.fromkeys(files))


def embed_files(
    embedder: Embedder,
    inputs: Sequence[str],
    output: str,
    formats: Sequence[str] = FORMATS,
    max_bad_share: float = 0.05,
) -> EmbeddingJob:
    """Embeds files and the pictures of folders, or what is missing of them, and writes the result.

    Args:
        output: path without ending (.npz or .parquet at its end is left out).
        formats: some of "npz" and "parquet".
        max_bad_share: of the files that may be unreadable, in [0, 1].

    Raises:
        UsageError: too many files are unreadable, or the network gives no finite numbers; what was embedded until then is
            kept for the next run. A share outside [0, 1], or an output without a name.
    """
    base = _ENDING.sub("", output)
    if os.path.basename(base) in ("", ".", ".."):
        raise UsageError(f"--output {output!r} names no file; give a path without ending, as in folder/embeddings")
    if not 0 <= max_bad_share <= 1:
        raise UsageError(f"--max-bad-share must be from 0 to 1, not {max_bad_share}")
    if "parquet" in formats and importlib.util.find_spec("pyarrow") is None:
        raise UsageError("Parquet files need pyarrow; install it with: pip install pyarrow, or ask for npz only")
    paths = list_files(inputs)
    store = EmbeddingStore(base, embedder.fingerprint, os.fspath(embedder.run), embedder([]).shape[1])
    problems: list[ReadFile] = []
    try:
        missing = store.missing(paths)
        warn_of_input_size(missing, embedder.input_size, "INPUT.SIZE_TEST")
        with progress_bar(len(missing), "embedding", unit="img") as bar:
            for found in embedder.stream(missing):
                bar.update()
                if found.reason is not None:
                    problems.append(found)
                    check_share(problems, len(paths), max_bad_share, "--max-bad-share", stopped=True)
                elif np.isfinite(found.value).all():
                    store.add(found.path, found.value)
                else:
                    weights, path = shown(os.fspath(embedder.weights)), shown(found.path)
                    raise UsageError(f"{weights} gives no finite numbers for {path}; choose weights that do")
    finally:
        store.pause()
    bad = {problem.path for problem in problems}
    result = store.finish([path for path in paths if path not in bad], formats)
    return EmbeddingJob(result, len(missing) - len(problems), problems, [f"{base}.{kind}" for kind in formats])


class Found(NamedTuple):
    """A query image and its matches, the best first; the query's own file is none of them.

    ``copies``: path of a match -> the query, or an earlier match, whose file has the same bytes.
    """

    query: str
    matches: list
    copies: dict = {}


def find_matches(
    index_folder: str,
    inputs: Sequence[str],
    run: Optional[str] = None,
    weights: Optional[str] = None,
    device: str = "auto",
    k: int = 10,
    exact: bool = False,
    rerank: bool = False,
    candidates: int = 200,
) -> list[Found]:
    """Searches for every query image; its own file, where it is indexed, is left out.

    Args:
        index_folder: of a :class:`SearchIndex`.
        inputs: query files, and folders of them.
        run: of the network; by default the one that the index remembers.
        weights, device: as for :class:`ise_plugin.Embedder`.
        k, rerank, candidates, exact: as for :meth:`SearchIndex.search` and :meth:`SearchIndex.set_exact`.

    Raises:
        UsageError: the index, the weights or a query cannot be read, the network is another than that of the index, or
            the index holds nothing that compares with anything.
        ValueError: k < 1.
    """
    index = SearchIndex.load(index_folder)
    if exact:
        index.set_exact()
    embedder = Embedder(run or index.about["run"], weights, device)
    if embedder.fingerprint != index.about["fingerprint"]:
        raise UsageError(
            f"{shown(index_folder)} was built with another network than {shown(embedder.weights)}; "
            "name the right one with --run or --weights, or build the index anew"
        )
    paths = list_files(inputs)
    matches = index.search(embedder(paths), k + 1, rerank, candidates)  # one may be the query itself
    if not any(matches):
        raise UsageError(f"{shown(index_folder)} gives no match at all; build it anew from embeddings made anew")
    return [_others(*pair, k, embedder.calibration) for pair in zip(paths, matches)]


def _others(query: str, matches: list, k: int, calibration: Optional[Calibration]) -> Found:
    own = os.path.realpath(query)
    others = [match for match in matches if os.path.realpath(match.path) != own][:k]
    likely = lambda match: calibration and float(calibration.pair_probability(match.similarity))
    kept = [match._replace(rank=rank, probability=likely(match)) for rank, match in enumerate(others, 1)]
    return Found(query, kept, identical_files([query, *(match.path for match in kept)]))


def table_of(found: Sequence[Found]) -> str:
    """The matches as text."""
    rows = []
    for query, matches, copies in found:
        for m in matches:
            same = f" (the same file as {_cell(copies[m.path])})" if m.path in copies else ""
            likely = [] if m.probability is None else [f"{m.probability:.3f}"]
            rows.append([_cell(query), m.rank, f"{m.similarity:.4f}", *likely, _cell(m.path) + same])
    likely = ["probability"] if rows and len(rows[0]) > 4 else []
    headers = ["query", "rank", "similarity", *likely, "match"]
    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)


def _cell(path: str) -> str:
    return shown(path).replace("|", "\\|")  # as Markdown has it; a bare one would end the column


def write_json(path: str, found: Sequence[Found]) -> None:
    """The matches as a list of {"query", "matches": [{"rank", "path", "similarity"}]}, numbers to four places; a match has
    "probability", too, where the network is calibrated, and "same_file_as" where it is a copy."""
    content = []
    for query, matches, copies in found:
        same = lambda path: {"same_file_as": copies[path]} if path in copies else {}
        entries = [{**_rounded(m), **same(m.path)} for m in matches]
        content.append({"query": query, "matches": entries})
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def _rounded(match: Match) -> dict:
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in match._asdict().items()
        if value is not None
    }


def picture_format(path: str) -> str:
    """The format that the ending of a name stands for, as Pillow calls it; UsageError for another ending."""
    ending = os.path.splitext(path)[1].lower()
    if ending not in _PICTURE_FORMATS:
        raise UsageError(f"--picture {shown(path)}: the name must end in one of {', '.join(_PICTURE_FORMATS)}")
    return _PICTURE_FORMATS[ending]


def write_picture(path: str, found: Sequence[Found]) -> None:
    """Queries, framed, and their matches, the best first with their similarities, as one picture.

    The first 100 queries and 50 matches of each are shown; the log says when there are more.

    Args:
        path: ends in .jpg, .jpeg or .png.
        found: at least one.
    """
    kind, buffer = picture_format(path), io.BytesIO()
    most = max(len(each.matches) for each in found)
    if len(found) > MOST_QUERIES or most > MOST_MATCHES:
        logger.warning(
            f"the picture shows {min(len(found), MOST_QUERIES)} of {len(found)} queries "
            f"and up to {min(most, MOST_MATCHES)} of {most} matches for each"
        )
    rows = []
    for query, matches, _ in found[:MOST_QUERIES]:
        captions = ["query", *(f"{match.similarity:.3f}" for match in matches[:MOST_MATCHES])]
        rows.append(Row([query, *(match.path for match in matches[:MOST_MATCHES])], captions=captions, framed=True))
    try:
        draw_rows(rows).save(buffer, kind, quality=90)
    except (OSError, ValueError) as error:
        raise UsageError(f"{shown(path)} cannot be drawn ({error}); ask for fewer matches with -k") from error
    write_atomically(path, buffer.getvalue())
