"""Name -> component tables for everything a config file chooses by name inside ``ise_plugin``.

Meta-architectures, heads, backbones and data sets go into fastreid's own registries; the tables here are for
the kinds of component that fastreid has no registry for.
"""

import importlib

from fvcore.common.registry import Registry

from .errors import UsageError

LOSS = Registry("LOSS")
LOSS.__doc__ = """
Losses named in ``MODEL.LOSSES.NAME``. Called with ``(cfg)``; returns a module whose ``forward`` takes the
dictionary that :class:`ise_plugin.modeling.ClusterMemoryHead` returns and gives a dictionary of scalar losses.
"""

CLUSTERER = Registry("CLUSTERER")
CLUSTERER.__doc__ = """
Clustering algorithms named in ``ISE.PSEUDO_LABEL.CLUSTERER``. Built with keyword arguments; ``fit_predict(graph)``
takes a sparse distance graph (scipy CSR, N x N) and gives int64 pseudo labels (N,), -1 for outliers.
"""

DISTANCE = Registry("DISTANCE")
DISTANCE.__doc__ = """
Distance graphs: called with ``(features, **options)``, features (N, D) with unit rows; returns a scipy CSR matrix
(N, N), float32, that stores every pair nearer than a bound.
"""

NEIGHBOR_SEARCH = Registry("NEIGHBOR_SEARCH")
NEIGHBOR_SEARCH.__doc__ = """
k-nearest-neighbour searches: called with ``(features, k, **options)``, features (N, D) with unit rows; return
``(similarities, indices)``, float32 and int64, both (N, k), most similar first, each row's own index first. One that takes
``shared=True`` is called by all processes together; others by the first one alone.
"""

HOOK = Registry("HOOK")
HOOK.__doc__ = """
Training hooks named in ``ISE.HOOKS`` and ``ISE.PSEUDO_LABEL.HOOK``: classes over ``fastreid.engine.HookBase``, see
:mod:`ise_plugin.engine.hooks`.
"""


def registered(registry, name: str, key: str):
    """The component of that name in one of the tables above or in one of fastreid's.

    Args:
        registry: the table.
        name: what the config says.
        key: where the config says it, for the message.

    Raises:
        UsageError: nothing of that name is registered; the message lists what is.
    """
    known = registry._obj_map  # the one attribute that fvcore's and fastreid's tables share
    module, _, attribute = name.rpartition(".")
    if module:
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UsageError(f"{key}: {name} cannot be imported ({error}); check the name, and PYTHONPATH") from error
    if name not in known:
        raise UsageError(f"{key}: nothing named {name!r} is registered; known are: {', '.join(sorted(known))}")
    return known[name]


def build(registry, name: str, key: str, cfg):
    """The registered component of that name, built from the configuration.

    A class with ``from_config(cfg)`` is called with the keyword arguments that this returns; None means that there is nothing
    to build (in this process, say). One without is called with ``(cfg)``.

    Raises:
        UsageError: see :func:`registered`.
    """
    component = registered(registry, name, key)
    if not hasattr(component, "from_config"):
        return component(cfg)
    arguments = component.from_config(cfg)
    return None if arguments is None else component(**arguments)
