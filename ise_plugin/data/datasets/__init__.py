"""Data sets that this package adds to fastreid's registry."""

from .folder import Folder
from .msmt17 import MSMT17V1, MSMT17V2
from .synthetic_persons import SyntheticPersons, SyntheticPersonsMarket, SyntheticPersonsTiny

__all__ = ["Folder", "MSMT17V1", "MSMT17V2", "SyntheticPersons", "SyntheticPersonsMarket", "SyntheticPersonsTiny"]
