"""Logging that every room shares."""

import logging
from functools import lru_cache
from typing import Sequence

logger = logging.getLogger("fastreid.ise.neighbors")


@lru_cache(maxsize=None)
def log_once(message: str) -> None:
    """Log a choice or a fallback the first time it is made."""
    logger.info(message)


def some_of(items: Sequence, most: int) -> str:
    """The first so many of them for a message, and how many more there are."""
    more = len(items) - most
    return ", ".join(map(str, items[:most])) + (f" and {more} more" if more > 0 else "")


class KeptWarnings(logging.Handler):
    """Keeps the messages of warnings and errors, each once, until they are taken."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._messages: dict = {}  # message -> None, in the order of their first appearance

    def emit(self, record: logging.LogRecord) -> None:
        self._messages[record.getMessage()] = None

    def take(self) -> list:
        """The messages since the last call."""
        messages, self._messages = list(self._messages), {}
        return messages


# Of this process; whoever reads them adds this handler to a logger.
kept_warnings = KeptWarnings()
