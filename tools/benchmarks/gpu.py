"""What the checks of tools/gpu_check.py share: rows of its table, and how large everything is."""

from dataclasses import dataclass
from typing import NamedTuple, Optional


class Row(NamedTuple):
    """One line of the table."""

    name: str
    value: str
    bar: str = ""
    passed: Optional[bool] = None  # None: a figure that nothing depends on


@dataclass(frozen=True)
class Setting:
    """Where and how large: the sizes of Market-1501 and of the paper's network, or of seconds on a CPU.

    Attributes:
        device: "cuda" or "cpu".
        network: keys of MODEL.BACKBONE.
        image, batch, group: height and width; images; images that share batch-norm statistics.
        warm_up, steps, rounds: steps not timed, then so many rounds of steps timed together, of which the median counts.
        epoch_steps: steps of the epoch with its loader.
        epochs: of training in the runs whose mAP is compared, and steps of an epoch there; None: as configured.
        clustered, width: numbers of embeddings searched and labelled, and their length; the first is one epoch's.
        compared: embeddings labelled on both devices.
        queries, gallery: images of an evaluation.
        data, demo_data: drawn data sets.
    """

    device: str
    network: tuple
    image: tuple
    batch: int
    group: int
    warm_up: int
    steps: int
    rounds: int
    epoch_steps: int
    epochs: Optional[tuple]
    clustered: tuple
    width: int
    compared: int
    queries: int
    gallery: int
    demo_data: str

    @property
    def feat_dim(self) -> int:
        """Length of an embedding of ``network``."""
        return dict(zip(self.network[::2], self.network[1::2]))["MODEL.BACKBONE.FEAT_DIM"]


FULL = Setting(
    device="cuda",
    network=("MODEL.BACKBONE.DEPTH", "50x", "MODEL.BACKBONE.FEAT_DIM", 2048),
    image=(256, 128),
    batch=256,
    group=64,
    warm_up=8,
    steps=10,
    rounds=5,
    epoch_steps=80,
    epochs=None,
    clustered=(12936, 32621),
    width=2048,
    compared=4000,
    queries=3368,
    gallery=15913,
    demo_data="demo",
)
DRY = Setting(
    device="cpu",
    network=("MODEL.BACKBONE.DEPTH", "18x", "MODEL.BACKBONE.FEAT_DIM", 512),
    image=(64, 32),
    batch=32,
    group=16,
    warm_up=0,
    steps=1,
    rounds=1,
    epoch_steps=2,
    epochs=(1, 2),
    clustered=(300, 400),
    width=64,
    compared=300,
    queries=20,
    gallery=60,
    demo_data="tiny",
)
