"""What the tools share: errors of one line, and a log on the console."""

import argparse
import logging
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
        that is needed, 130 after Ctrl-C.
    """
    parser.add_argument("--traceback", action="store_true", help="show where an error of one line comes from")
    args = parser.parse_args(argv)
    # names of files may hold what the console's encoding cannot say
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        return command(args) or 0
    except (UsageError, ModuleNotFoundError) as error:
        if args.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return UsageError.EXIT_CODE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130  # what a shell reports for a command that Ctrl-C has ended
