#!/usr/bin/env python3
"""Trains or evaluates ISE: python tools/train_net.py --config-file configs/ISE/market_r50.yml [KEY VALUE ...]

Copy this file for a trainer of your own: a subclass of ISETrainer in its place is all that changes.
"""

import sys

try:
    from ise_plugin.engine import ISETrainer, setup
    from ise_plugin.engine.command import argument_parser, evaluate, run
except ModuleNotFoundError as error:  # fastreid, say: the message names the command that installs it
    sys.exit(f"error: {error}")


def train(args):
    """What every process of a run does."""
    cfg = setup(args)
    if args.eval_only:
        return evaluate(cfg, ISETrainer)
    trainer = ISETrainer(cfg)
    trainer.config_file = args.config_file  # the report names it
    trainer.resume_or_load(args.resume)
    return trainer.train()


def main(argv=None) -> int:
    """Runs :func:`train` in one process or several; returns the exit code."""
    return run(argument_parser(), train, argv)


if __name__ == "__main__":
    sys.exit(main())
