"""Person crops drawn from a seed, in Market-1501's layout. Needs numpy, Pillow and tqdm; no fastreid, no torch.

`make_plan` says which pictures a data set has, `write_dataset` draws and writes them, `draw_person` draws a single
one. The project's README shows them and says how hard they are.
"""

from .body import Pose
from .cameras import MAX_CAMERAS, MIN_CAMERAS, STANDARD_STRENGTH, Camera, make_cameras
from .crops import draw_background, draw_person, sample_walk
from .drawing import Placement, draw_figure
from .people import Identity, sample_identity
from .plan import SIZES, ImagePlan, Size, make_plan
from .streams import Stream, stream
from .writer import DatasetExistsError, WrittenDataset, count_images, draw_planned, folder_name, write_dataset

__all__ = [
    "Camera",
    "DatasetExistsError",
    "Identity",
    "ImagePlan",
    "MAX_CAMERAS",
    "MIN_CAMERAS",
    "Placement",
    "Pose",
    "SIZES",
    "STANDARD_STRENGTH",
    "Size",
    "Stream",
    "WrittenDataset",
    "count_images",
    "draw_background",
    "draw_figure",
    "draw_person",
    "draw_planned",
    "folder_name",
    "make_cameras",
    "make_plan",
    "sample_identity",
    "sample_walk",
    "stream",
    "write_dataset",
]
