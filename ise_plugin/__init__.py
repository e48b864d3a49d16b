"""Implicit Sample Extension for fastreid: import it and fastreid knows ISE.

``ise_plugin.method``, ``ise_plugin.neighbors`` and ``ise_plugin.clustering`` need no fastreid and can be used with any
trainer. Everything else registers itself as soon as fastreid is imported, see :mod:`ise_plugin._imports`; without fastreid
that part stays out, and a warning says which command installs it.
"""

import os
import warnings

from . import _imports

__version__ = "0.1.0"

# How often an OpenMP thread that waits for others looks before it sleeps (GNU's library, which torch brings along on Linux, reads
# this when it is loaded). Its default of 300,000, some 9 ms, is longer than the time slice of a thread that waits for the core:
# beside another program every step then waits for time slices. 1,000 are as long as going to sleep and waking up takes, and what
# the library takes itself where it knows of more threads than cores.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

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
