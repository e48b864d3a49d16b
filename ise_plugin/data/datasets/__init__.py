"""Data sets that this package adds to fastreid's registry."""

from .atrw import ATRW, ATRWCrossCamera, ATRWSingleCamera
from .cuhk03 import CUHK03Detected, CUHK03Labeled
from .folder import Folder
from .msmt17 import MSMT17V1, MSMT17V2
from .personx import PersonX
from .synthetic_persons import SyntheticPersons, SyntheticPersonsMarket, SyntheticPersonsTiny

__all__ = [
    "ATRW",
    "ATRWCrossCamera",
    "ATRWSingleCamera",
    "CUHK03Detected",
    "CUHK03Labeled",
    "Folder",
    "MSMT17V1",
    "MSMT17V2",
    "PersonX",
    "SyntheticPersons",
    "SyntheticPersonsMarket",
    "SyntheticPersonsTiny",
]
