"""Implicit Sample Extension for fastreid: import it and fastreid knows ISE.

``ise_plugin.method`` and ``ise_plugin.clustering`` need no fastreid and can be used with any trainer. Everything else
registers itself with fastreid when this package is imported; without fastreid that part stays out, and a warning
says which command installs it.
"""

import warnings

from . import compat

__version__ = "0.1.0"

if compat.fastreid_is_installed():
    compat.prepare()
    from . import data, engine, modeling  # noqa: F401  (importing registers the components)
    from .config import add_ise_config, get_cfg  # noqa: F401
    from .identities import choice  # noqa: F401
    from .inference.embedder import Embedder  # noqa: F401
    from .report import hook  # noqa: F401
else:
    warnings.warn(
        "fastreid is not installed, only ise_plugin.method and ise_plugin.clustering can be used; "
        f"install it with: {compat.INSTALL_COMMAND}",
        stacklevel=2,
    )
