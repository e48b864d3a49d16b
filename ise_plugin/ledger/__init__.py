"""A wing above the others: people in a file that lasts, from run to run and day to day."""

from .batch import Batch
from .identity_ledger import IdentityLedger

__all__ = ["Batch", "IdentityLedger"]
