"""Logging that every room shares."""

import logging
from functools import lru_cache

logger = logging.getLogger("fastreid.ise.neighbors")


@lru_cache(maxsize=None)
def log_once(message: str) -> None:
    """Log a choice or a fallback the first time it is made."""
    logger.info(message)
