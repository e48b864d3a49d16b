"""Paths and small helpers that several tests share."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
CONFIGS = REPOSITORY / "configs"
RECORDINGS = Path(__file__).parent / "data" / "conformance"
