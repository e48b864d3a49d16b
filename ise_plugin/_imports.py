"""Imports that wait, and old names that lead to the new places.

fastreid must be prepared before it is imported, and has to know this package's components afterwards; both take torch,
torchvision and fastreid, two seconds in all. Whoever wants :mod:`ise_plugin.clustering`, or ``--help``, should not wait for
that. So ``import ise_plugin`` imports none of the three, but watches for fastreid: whoever imports it, and whenever, gets it
prepared, torchvision as well, and with the components registered. The hooks of the wings, which the engine does not know,
are registered after the import of the engine in the same way.

The first import may come from anywhere, a module of this package that is half imported itself included. Nothing that is
imported on the way needs that half: components need only rooms below them, and the engine comes before any wing.
"""

import importlib
import importlib.abc
import importlib.util
import sys
import warnings
from types import ModuleType
from typing import Any, Callable

INSTALL_COMMAND = "pip install --no-deps fastreid==1.4.0"
_PACKAGE = __package__
# Importing these registers components in fastreid's tables; importing those hooks of wings in this package's.
COMPONENTS = ("data.datasets", "modeling")
WING_HOOKS = {"identities": "identities.choice", "report": "report.hook"}
# Old module -> where it is now, for one release.
MOVED = {
    "clustering.approximate_neighbors": "neighbors.approximate_search",
    "clustering.neighbors": "neighbors.exact_search",
    "command_line": "utils.command_line",
    "distributed": "utils.distributed",
    "embedder": "inference.embedder",
    "engine.choice": "identities.choice",
    "engine.cli": "engine.command",
    "engine.identities": "identities.groups",
    "engine.models": "modeling.build",
    "engine.pseudo_labels": "engine.labelling",
    "engine.reporting": "report.hook",
    "export": "inference.exports",
    "search": "inference",
    "weights": "utils.weights",
}


def fastreid_is_installed() -> bool:
    """Whether fastreid can be found, without importing it."""
    return importlib.util.find_spec("fastreid") is not None


def require_fastreid() -> None:
    """Raises ModuleNotFoundError, with the command that installs fastreid, where it cannot be found."""
    if not fastreid_is_installed():
        raise ModuleNotFoundError(f"fastreid is not installed; install it with: {INSTALL_COMMAND}", name="fastreid")


def watch() -> None:
    """Sets up what this module is about; registers at once where fastreid is imported already."""
    watchers = [_Watcher(f"{_PACKAGE}.engine", require_fastreid, lambda: _import(*WING_HOOKS.values()))]
    watchers += [_Watcher(f"{_PACKAGE}.{wing}", before=_import_engine) for wing in WING_HOOKS]
    if "fastreid" in sys.modules:
        _register()
    else:
        watchers.append(_Watcher("fastreid", lambda: _import("compat").prepare_import(), _register))
    sys.meta_path[:0] = [*watchers, _MovedModules()]


def _import(*names: str) -> ModuleType:
    """Modules of this package; the last one is returned."""
    return [importlib.import_module(f"{_PACKAGE}.{name}") for name in names][-1]


def _register() -> None:
    _import("compat").prepare()
    _import(*COMPONENTS)


def _import_engine() -> None:
    if fastreid_is_installed():  # pages of finished runs are made without
        _import("engine")


class _Watcher(importlib.abc.MetaPathFinder):
    """Runs a function before and another one after a module is executed for the first time."""

    def __init__(self, name: str, before: Callable = lambda: None, after: Callable = lambda: None):
        self._name, self._before, self._after = name, before, after
        self._asking_others = False

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self._name or self._asking_others:
            return None
        self._asking_others = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking_others = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                self._before()
                execute(module)
                self._after()
                if self in sys.meta_path:
                    sys.meta_path.remove(self)

            spec.loader.exec_module = exec_module
        return spec


class _MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules under their old names: the same module objects, with a warning."""

    def find_spec(self, fullname, path=None, target=None):
        return importlib.util.spec_from_loader(fullname, self) if _new_name(fullname) else None

    def exec_module(self, module: ModuleType) -> None:
        new = _new_name(module.__name__)
        warnings.warn(
            f"{module.__name__} is now {new}; the old name goes with the next release", DeprecationWarning, stacklevel=2
        )
        sys.modules[module.__name__] = importlib.import_module(new)  # the import system takes what lies here


def _new_name(name: str) -> str:
    """Where a module or a module of a moved package is now; empty for one that has not moved."""
    old = name.removeprefix(f"{_PACKAGE}.")
    for known, new in MOVED.items():
        if name != old and (old == known or old.startswith(f"{known}.")):
            return f"{_PACKAGE}.{new}{old[len(known) :]}"
    return ""


def lazy(package: str, exports: dict[str, str]) -> Callable[[str], Any]:
    """A package's ``__getattr__`` (PEP 562): imports its modules, and ``exports`` (name -> module), when asked for."""

    def __getattr__(name: str) -> Any:
        if name in exports:
            return getattr(importlib.import_module(f"{package}.{exports[name]}"), name)
        module = f"{package}.{name}"
        if not _new_name(module) and importlib.util.find_spec(module):  # a moved one warns at the line that imports it
            return importlib.import_module(module)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return __getattr__
