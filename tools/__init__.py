"""The commands: run as ``python tools/NAME.py`` in a checkout; installed they are ``ise_plugin.tools`` and ``ise-NAME``."""
