#!/usr/bin/env python3
"""Trains or evaluates ISE: python tools/train_net.py --config-file configs/ISE/market_r50.yml [KEY VALUE ...]"""

import sys

from ise_plugin import compat


def main(argv=None) -> int:
    try:
        compat.prepare()
    except ImportError as error:
        sys.exit(f"error: {error}")
    from ise_plugin.engine.command import main as train

    return train(argv)


if __name__ == "__main__":
    sys.exit(main())
