"""Images, samplers and loaders that run on any device; importing this package registers the data sets."""

from . import datasets  # noqa: F401  (registers the data sets)
from .image_sets import TrainingImages, read_evaluation_images, read_training_images
from .loaders import TrainingLoader, build_test_loader
from .samplers import CrossCameraBatchSampler

__all__ = [
    "CrossCameraBatchSampler",
    "TrainingImages",
    "TrainingLoader",
    "build_test_loader",
    "read_evaluation_images",
    "read_training_images",
]
