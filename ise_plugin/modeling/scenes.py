"""Where an image was taken, by what is seen to the left and the right of the person: cameras and places that nobody has named."""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor

from .appearance import half_whitened, stripe_histograms

# The ground beside a person. Unit: share of the width, at either side.
_BORDER = 0.16
# Dimensions that scenes are told apart in.
_DIMENSIONS = 64
# So many images on average, or there are fewer scenes: the mean of a scene must be of many people.
_IMAGES_PER_SCENE = 60
# A smaller scene has the mean of all images.
_FEWEST_IMAGES = 10
# How soon a scene of images that are much alike, of one person perhaps, keeps its mean.
_SHARE_POWER = 2


def surroundings(images: Tensor) -> Tensor:
    """Histograms of the colours beside the person in each stripe, (B, STRIPES * 128); arguments as
    :func:`.appearance.colors` has them."""
    border = max(1, round(_BORDER * images.shape[3]))
    beside = torch.cat([images[..., :border], images[..., -border:]], dim=3)
    return stripe_histograms(beside, torch.ones(beside.shape[3], device=images.device))


def find_scenes(block: Tensor, count: int, seed: int) -> np.ndarray:
    """Images grouped by their :func:`surroundings`: cameras and places that nobody has named.

    Args:
        block: (N, D), float.
        count: how many at most, at least 1; with few images there are fewer.
        seed: of k-means.

    Returns:
        (N,), int64, 0..count-1.
    """
    count = min(count, len(block) // _IMAGES_PER_SCENE)
    points = half_whitened(block, _DIMENSIONS).cpu().numpy()
    if count < 2 or points.shape[1] == 0:  # few images, or all of them before the same wall
        return np.zeros(len(block), dtype=np.int64)
    return KMeans(count, n_init=1, random_state=seed).fit_predict(points).astype(np.int64)


def without_scenes(features: Tensor, scenes: Tensor) -> Tensor:
    """Unit rows, less what those of a scene have in common.

    Where a network has not learned people yet, much of what an embedding tells is where it was taken: neighbours are images
    of the same place. The mean of a scene is that part, where many people pass through it: it is taken out as far as the scene's
    images are as various as all images are, by the square of the ratio of their variances. Somebody who stands still all the
    time is a scene of his own, and is left as he is for the most part.

    Args:
        features: (N, D), float32, unit rows.
        scenes: (N,), int64, 0..S-1, cameras as well; -1 = unknown, where the mean of all images alone is taken out.
    """
    member = F.one_hot(scenes + 1).double()  # sums in float64 do not depend on their order
    count = member.sum(0).unsqueeze(1).clamp(min=1)
    center = features.double()
    center = center - center.mean(0)
    means = member.T @ center / count
    spread = (member.T @ center.square().sum(1, keepdim=True)) / count - means.square().sum(1, keepdim=True)
    share = (spread / center.square().sum(1).mean().clamp(min=1e-12)).clamp(0, 1) ** _SHARE_POWER
    # a mean of a few images is those images
    means = torch.where(count < _FEWEST_IMAGES, 0.0, share * means)
    means[0] = 0  # of images that have nothing in common but that their place is unknown
    rest = (center - means[scenes + 1]).to(features.dtype)
    # images that are all alike leave nothing
    return F.normalize(torch.where(rest.norm(dim=1, keepdim=True) > 1e-6, rest, features), dim=1)
