"""What the tools share: errors of one line, and a log on the console."""

import argparse
import logging
import os
import select
import sys
from typing import Callable, Optional, Sequence

from ..errors import UsageError


def run_command(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], Optional[int]],
    argv: Optional[Sequence[str]] = None,
) -> int:
    """Parses, runs, and turns what the user can put right into one line on standard error.

    Returns:
        The exit code: what the command returns, 0 where that is nothing; 2 after a :class:`UsageError` or without a package
        that is needed, 130 after Ctrl-C, 141 where the reader of the output, such as ``head``, has gone.
    """
    parser.add_argument("--traceback", action="store_true", help="show where an error of one line comes from")
    args = parser.parse_args(argv)
    # names of files may hold what the console's encoding cannot say
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        code = command(args) or 0
        sys.stdout.flush()
        return code
    except (UsageError, ModuleNotFoundError) as error:
        if args.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return UsageError.EXIT_CODE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130  # what a shell reports for a command that Ctrl-C has ended
    except BrokenPipeError:
        if not _reader_has_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails once more when it ends
        return 141  # what a shell reports for a command that a broken pipe has ended


def _reader_has_gone() -> bool:
    """Whether it is standard output that nobody reads any more, and not a pipe of the program's own."""
    ends = select.poll()
    ends.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in ends.poll(0))
