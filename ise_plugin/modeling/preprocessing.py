"""What is done to a batch of images on the device: flip and crop where the loader only drew them, normalise, erase."""

import torch
from torch import Tensor

_FIELDS = ("images", "flipped", "offsets", "erased")


@torch.no_grad()
def prepare_images(batch: dict, mean: Tensor, std: Tensor, erase_value: Tensor) -> Tensor:
    """Images as a network takes them, in channels-last layout, which convolutions are fastest in on CPUs and recent GPUs.

    Args:
        batch: ``images`` (B, 3, H, W), 0..255, any dtype, which are left as they are; and where the loader made them
            ``flipped``, ``offsets`` and ``erased`` (:class:`ise_plugin.data.augmentation.BatchAugmentation`).
        mean, std: (1, 3, 1, 1), float32, on the device to work on, in 0..255 units.
        erase_value: (1, 3, 1, 1), colour of erased rectangles, likewise.

    Returns:
        (B, 3, H, W), float32, on the device of ``mean``. Nothing waits for the device.
    """
    on_device = {name: batch[name].to(mean.device, non_blocking=True) for name in _FIELDS if name in batch}
    images = on_device["images"].contiguous(memory_format=torch.channels_last)
    if "offsets" in on_device:
        images = flip_and_crop(images, on_device["flipped"], on_device["offsets"])
    images = images.to(mean.dtype, copy=True).sub_(mean).div_(std)  # in place: a large new tensor costs time
    if "erased" in on_device:
        images = erase(images, on_device["erased"], (erase_value - mean) / std)
    return images


def flip_and_crop(images: Tensor, flipped: Tensor, offsets: Tensor) -> Tensor:
    """Shifts every image over a black ground, then mirrors those marked.

    Args:
        images: (B, C, H, W), any dtype, channels-last.
        flipped: (B,), bool: mirror left and right.
        offsets: (B, 2), int64, pixels: (top, left) of the window, of the image's own size; outside the image it is black.

    Returns:
        (B, C, H, W), dtype and layout of ``images``.
    """
    count, _, height, width = images.shape
    y, x = (torch.arange(n, device=images.device).expand(count, n) for n in (height, width))
    rows = y + offsets[:, :1]
    columns = torch.where(flipped.unsqueeze(1), width - 1 - x, x) + offsets[:, 1:]
    inside = _inside(rows, height).unsqueeze(2) & _inside(columns, width).unsqueeze(1)
    image = torch.arange(count, device=images.device)[:, None, None]
    pixels = images.permute(0, 2, 3, 1)
    pixels = pixels[image, rows.clamp(0, height - 1).unsqueeze(2), columns.clamp(0, width - 1).unsqueeze(1)]
    return pixels.mul_(inside.unsqueeze(3)).permute(0, 3, 1, 2)


def erase(images: Tensor, rectangles: Tensor, value: Tensor) -> Tensor:
    """Fills a rectangle of every image.

    Args:
        images: (B, C, H, W).
        rectangles: (B, 4), int64, pixels: (top, left, height, width); height 0 fills nothing.
        value: broadcastable to (B, C, H, W), dtype of ``images``.
    """
    height, width = images.shape[2:]
    top, left, tall, wide = rectangles[:, :, None].unbind(1)
    y, x = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    rows, columns = (y >= top) & (y < top + tall), (x >= left) & (x < left + wide)
    return torch.where((rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1), value, images)


def _inside(positions: Tensor, length: int) -> Tensor:
    return (positions >= 0) & (positions < length)
