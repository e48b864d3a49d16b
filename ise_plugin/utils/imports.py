"""Python files and modules of the user's own, imported so that what they register can be named."""

import hashlib
import importlib
import importlib.util
import os
import sys
from types import ModuleType

from ..errors import UsageError


def import_file(path: str, key: str) -> ModuleType:
    """The module that a Python file is; executed once, however often and from wherever it is asked for.

    Args:
        path: of the file; need not be on ``PYTHONPATH``.
        key: where its name stands, for the message.

    Raises:
        UsageError: the file is not there, or cannot be imported.
    """
    path = os.path.realpath(path)
    # a stem alone may be that of another module, or of another folder's file
    name = f"{os.path.splitext(os.path.basename(path))[0]}_{hashlib.sha256(path.encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    if not os.path.isfile(path):
        raise UsageError(f"{key}: {path} is not there; name a Python file, relative to the config file that names it")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # as for every name that ends in .py
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise cannot_be_imported(path, key, error) from error
    return module


def import_module(name: str, key: str) -> ModuleType:
    """A module by its dotted name, wherever Python finds it; UsageError, which names the key, where it cannot be imported."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise cannot_be_imported(name, key, error, "; check the name, and PYTHONPATH") from error


def cannot_be_imported(what: str, key: str, error: Exception, advice: str = "") -> UsageError:
    """One line on what a module of the user's own has raised, which may be anything."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return UsageError(f"{key}: {what} cannot be imported ({reason}){advice}")
