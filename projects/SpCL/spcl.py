"""SpCL without a source domain: a memory of instances, whose clusters' means and outliers are the classes of one loss.

Ge, Zhu, Chen, Zhao, Li, "Self-paced Contrastive Learning with Hybrid Memory for Domain Adaptive Object Re-ID", NeurIPS 2020.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ise_plugin.config import own_settings
from ise_plugin.data.samplers import CrossCameraBatchSampler
from ise_plugin.modeling import InstanceMemory
from ise_plugin.modeling.memories import of_images
from ise_plugin.registry import LOSS, MEMORY, SAMPLER


def number_classes(labels):
    """The class (N,), int64, of every image, from pseudo labels (N,) int64: that of its cluster, 0..M-1, or for an outlier (-1)
    one of its own, M..M+O-1 in the order of the images."""
    classes, outliers = labels.clone(), labels < 0
    classes[outliers] = torch.arange(int(outliers.sum())) + labels.max() + 1
    return classes


def class_means(instances, order, counts):
    """The mean row (C, D) of every class, as the paper has it: not normalised.

    Args:
        instances: (N, D), float.
        order: (N,), int64, the images sorted by class.
        counts: (C,), int64, images of every class.
    """
    # one class after the other in row order; the counts fit, and checking them would wait for the device
    return torch.segment_reduce(instances[order], "mean", lengths=counts, axis=0, unsafe=True)


@MEMORY.register()
class HybridMemory(InstanceMemory):
    """The paper's hybrid memory: a row for each image, moved by the batches it is in, and classes over these rows.

    A cluster's centroid is the mean of its rows as they are at this step, an un-clustered instance is a class of its own. Losses
    get ``class_means`` (C, D), float32, and ``classes`` (B,), int64.
    """

    def fill(self, features, labels, images):
        super().fill(features, labels, images)
        self._number(labels, features.device)

    def restore(self, state, labels, images):
        super().restore(state, labels, images)
        self._number(labels, self.instances.device)

    def _number(self, labels, device):
        self._classes = number_classes(labels)  # on the host
        self._order, self._counts = (
            index.to(device) for index in (torch.argsort(self._classes, stable=True), torch.bincount(self._classes))
        )

    def forward(self, features, batch):
        classes = self._classes[of_images(batch)].to(features.device, non_blocking=True)
        instances = super().forward(features, batch)["instances"]
        return {"class_means": class_means(instances, self._order, self._counts), "classes": classes}


@LOSS.register()
class UnifiedContrastiveLoss(nn.Module):
    """``-log(exp(f.z / t) / sum over all classes k of exp(f.z_k / t))``, z the mean of the image's own class, the mean over the
    batch: the paper's unified contrastive loss without classes of a source domain.

    Args:
        temperature: t, > 0.
    """

    wants = ("HybridMemory",)

    def __init__(self, temperature=0.05):
        super().__init__()
        self.temperature = temperature

    @classmethod
    def from_config(cls, cfg):
        return {"temperature": own_settings(cfg, "SPCL", TEMPERATURE=0.05).TEMPERATURE}

    def forward(self, outputs):
        logits = outputs["features"] @ outputs["class_means"].t() / self.temperature
        return {"loss_unified": F.cross_entropy(logits, outputs["classes"])}


@SAMPLER.register()
class PseudoClassBatchSampler(CrossCameraBatchSampler):
    """Batches of the paper: some images of each cluster drawn, one image for each un-clustered instance drawn.

    A pass visits clusters and outliers in one random order, a cluster as :class:`CrossCameraBatchSampler` does; batches are cut
    from what passes give one after the other. Arguments are those of that class; a batch has ``batch_size`` images always.
    """

    drawn = "images"

    def __init__(self, labels, cameras, num_instances, batch_size, **options):
        super().__init__(labels, cameras, num_instances, batch_size, **options)
        self.unit, self.images_per_batch = 1, batch_size

    def batches(self, rng):
        groups = [*self.members.values(), *np.flatnonzero(self.labels < 0)[:, None]]
        waiting = np.empty(0, np.int64)
        while True:
            for place in rng.permutation(len(groups)):
                group = groups[place]
                drawn = self._group(group, rng) if self.labels[group[0]] >= 0 else group
                waiting = np.append(waiting, drawn)
                while len(waiting) >= self.images_per_batch:
                    yield waiting[: self.images_per_batch]
                    waiting = waiting[self.images_per_batch :]
