"""Paths and small helpers that several tests share."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
CONFIGS = REPOSITORY / "configs"
RECORDINGS = Path(__file__).parent / "data" / "conformance"

# a run of seconds on the CPU
FOLDER_RUN_OPTIONS = """
    MODEL.DEVICE cpu INPUT.SIZE_TRAIN [64,32] INPUT.SIZE_TEST [64,32] ISE.PSEUDO_LABEL.K1 10 ISE.ITERS_PER_EPOCH 4
    DATALOADER.NUM_INSTANCE 4 DATALOADER.NUM_WORKERS 0 SOLVER.IMS_PER_BATCH 16 SOLVER.MAX_EPOCH 2 SOLVER.STEPS [1]
    SOLVER.CHECKPOINT_PERIOD 1
""".split()
