"""A network trained on the crops of recordings, with their cameras, tracks and times as evidence."""

import os
from typing import Any, Sequence

from ..data.mot import TABLE_NAME
from ..engine import ISETrainer, setup
from ..engine.command import argument_parser, run
from ..errors import UsageError
from ..identities.groups import CSV_NAME
from ..utils.files import shown


def train(config: str, folder: str, crops: str, options: Sequence[str] = ()) -> None:
    """Trains into a folder, unless it has a finished run; an interrupted one goes on from its last checkpoint.

    Args:
        config: of the kind of ISE/folder_reid.yml: it reads a folder and writes identities.
        crops: the folder with the crops and their table.
        options: words of key and value.

    Raises:
        UsageError: the training failed; its own message is on the console.
    """
    if os.path.exists(os.path.join(folder, CSV_NAME)):
        return
    told = ["DATASETS.FOLDER.ROOT", crops, "DATASETS.FOLDER.CAMERA_CSV", os.path.join(crops, TABLE_NAME)]
    words = ["--config-file", config, "--resume", *told, *options, "OUTPUT_DIR", folder]
    code = run(argument_parser(), _train, words)
    if code:
        raise UsageError(
            f"the training in {shown(folder)} has ended with exit code {code}; put that right and call this again"
        )


def _train(args: Any) -> Any:
    cfg = setup(args)
    trainer = ISETrainer(cfg)
    trainer.config_file = args.config_file  # the report names it
    trainer.resume_or_load(args.resume)
    return trainer.train()
