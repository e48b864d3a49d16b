"""Implicit Sample Extension for fastreid: import it and fastreid knows ISE.

``ise_plugin.method``, ``ise_plugin.neighbors`` and ``ise_plugin.clustering`` need no fastreid and can be used with any
trainer. Everything else registers itself as soon as fastreid is imported, see :mod:`ise_plugin._imports`; without fastreid
that part stays out, and a warning says which command installs it.
"""

import warnings

from . import _imports

__version__ = "0.1.0"

__getattr__ = _imports.lazy(
    __name__, {"Embedder": "inference.embedder", "add_ise_config": "config", "get_cfg": "config"}
)
_imports.watch()
if not _imports.fastreid_is_installed():
    warnings.warn(
        "fastreid is not installed, only ise_plugin.method, ise_plugin.neighbors and ise_plugin.clustering can be used; "
        f"install it with: {_imports.INSTALL_COMMAND}",
        stacklevel=2,
    )
