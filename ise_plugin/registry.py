"""Name -> component tables for everything a config file chooses by name inside ``ise_plugin``.

Meta-architectures, heads, backbones and data sets go into fastreid's own registries; the tables here are for
the kinds of component that fastreid has no registry for.
"""

from difflib import get_close_matches
from importlib import import_module
from typing import Any

from fvcore.common.registry import Registry

from .errors import UsageError
from .utils.imports import cannot_be_imported

LOSS = Registry("LOSS")
LOSS.__doc__ = """Losses named in ``MODEL.LOSSES.NAME``. Called with ``(cfg)``; return a module whose ``forward`` takes
the dictionary that :class:`ise_plugin.modeling.ClusterMemoryHead` returns and gives a dictionary of scalar losses.
The attribute ``wants``, a tuple of names of memories below, makes that head keep these; ``with_supports = True`` makes it
make support samples, where ``ISE.SUPPORT`` says so."""

MEMORY = Registry("MEMORY")
MEMORY.__doc__ = (
    """Memories beside the cluster centroids, which losses want by name: :class:`ise_plugin.modeling.Memory` s."""
)

SAMPLER = Registry("SAMPLER")
SAMPLER.__doc__ = """Batch samplers named in ``ISE.SAMPLER``: :class:`ise_plugin.data.BatchSampler` s.

Called at every epoch with what ``from_config(cfg)`` returns, or with ``(cfg)``, and as keyword arguments ``labels`` (N,)
int64, -1 for outliers, and ``seed``; with what its attribute ``wants`` names, as for distances, also."""

CLUSTERER = Registry("CLUSTERER")
CLUSTERER.__doc__ = """Clustering algorithms named in ``ISE.PSEUDO_LABEL.CLUSTERER``; see :func:`build`.

``max_distance`` says how far the graph must reach; ``fit_predict(graph)`` takes a distance graph (scipy CSR, N x N,
float32, symmetric, diagonal stored) and gives int64 pseudo labels (N,), 0..M-1, -1 for outliers. After it ``eps_`` (the
distance used), ``reason_`` (why that one) and ``summary_`` (one line on what came of it) may be there; all are logged. With the
attribute ``wants``, a tuple of names, it is given as keyword arguments ``features``, (N, D) with unit rows, what was searched
by, and ``units`` (N,) where images are known to be one person, who has one number. With ``state_dict`` and ``load_state_dict``
its state goes into checkpoints."""

DISTANCE = Registry("DISTANCE")
DISTANCE.__doc__ = """Distances named in ``ISE.PSEUDO_LABEL.DISTANCE``; see :func:`build`.

Called with ``(features, neighbors)``, features (N, D) with unit rows, neighbors as a search below gives them; return an
object with ``within(max_distance)``, the graph (scipy CSR, N x N, float32) of every pair at most so far apart, and
``of_rows(rows)``, the distances (S, N), float32, of some rows to all. Distances lie in [0, 1].

With the attribute ``wants``, a tuple of names out of ``cameras`` (N,) int64, ``tracks`` (N,) int64, both -1 where unknown, and
``times`` (N,) float64, NaN where unknown, it is given these as keyword arguments. With a method
``find_neighbors(search, features, **what it wants)`` it finds the neighbours itself, by the registered search below, in any
form that it takes; where all processes search together, ``shared=True`` comes as well and is passed on to the search."""

NEIGHBOR_SEARCH = Registry("NEIGHBOR_SEARCH")
NEIGHBOR_SEARCH.__doc__ = """k-nearest-neighbour searches named in ``ISE.PSEUDO_LABEL.SEARCH``.

Functions called with ``(features, k)``, features (N, D) with unit rows; return ``(similarities, indices)``, float32 and
int64, both (N, k), most similar first, each row's own index first. One with the attribute ``shared = True`` is called
by all processes together, with ``shared=True``; any other by the first process alone. One with the attribute ``across``,
a function called with ``(features, k, groups)``, finds by it the neighbours in groups other than the row's own."""

HOOK = Registry("HOOK")
HOOK.__doc__ = """Hooks named in ``ISE.HOOKS`` and ``ISE.PSEUDO_LABEL.HOOK``, see :mod:`ise_plugin.engine.hooks`."""


def registered(registry: Any, name: str, key: str) -> Any:
    """The component of that name in one of the tables above or in one of fastreid's.

    Args:
        name: what the config says; with a dot it is ``module.Class``, imported from wherever Python finds it.
        key: where the config says it, for the message.

    Raises:
        UsageError: nothing of that name is registered (the message lists what is, and what may be meant), or a dotted name
            cannot be imported.
    """
    if "." in name:
        return _imported(name, key)
    known = registry._obj_map  # the one attribute that fvcore's and fastreid's tables share
    if name not in known:
        spelled = {each.lower(): each for each in known}
        similar = [spelled[each] for each in get_close_matches(name.lower(), spelled, n=2)]
        meant = f"; did you mean {' or '.join(similar)}?" if similar else ""
        raise UsageError(f"{key}: nothing named {name!r} is registered; known are: {', '.join(sorted(known))}{meant}")
    return known[name]


def _imported(name: str, key: str) -> Any:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except Exception as error:  # a module of the user's own may fail in any way
        raise cannot_be_imported(name, key, error, "; check the name, and PYTHONPATH") from error


def build(registry: Any, name: str, key: str, cfg: Any, **given: Any) -> Any:
    """The registered component of that name, built from the configuration and from what is ``given`` as keyword arguments.

    A class with ``from_config(cfg)`` is called with the keyword arguments that this returns; None means that there is nothing
    to build (in this process, say). One without is called with ``(cfg)``.
    """
    component = registered(registry, name, key)
    if not hasattr(component, "from_config"):
        return component(cfg, **given)
    arguments = component.from_config(cfg)
    return None if arguments is None else component(**arguments, **given)
