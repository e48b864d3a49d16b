"""Images, samplers and loaders that run on any device. What is asked for is imported then: reading needs no fastreid."""

from .._imports import lazy

_EXPORTS = {
    "BatchSampler": "samplers",
    "CrossCameraBatchSampler": "samplers",
    "RandomBatchSampler": "samplers",
    "TrainingImages": "image_sets",
    "TrainingLoader": "loaders",
    "build_test_loader": "loaders",
    "read_evaluation_images": "image_sets",
    "read_training_images": "image_sets",
}
__all__ = list(_EXPORTS)
__getattr__ = lazy(__name__, _EXPORTS)
