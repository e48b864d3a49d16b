"""Data sets that this package adds to fastreid's registry."""

from .synthetic_persons import SyntheticPersons, SyntheticPersonsMarket, SyntheticPersonsTiny

__all__ = ["SyntheticPersons", "SyntheticPersonsMarket", "SyntheticPersonsTiny"]
