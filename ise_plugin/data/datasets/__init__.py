"""Data sets that this package adds to fastreid's registry."""

from .folder import Folder
from .synthetic_persons import SyntheticPersons, SyntheticPersonsMarket, SyntheticPersonsTiny

__all__ = ["Folder", "SyntheticPersons", "SyntheticPersonsMarket", "SyntheticPersonsTiny"]
