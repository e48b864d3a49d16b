"""Implicit Sample Extension for fastreid: import it and fastreid knows ISE."""

__version__ = "0.1.0"
