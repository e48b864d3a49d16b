"""fastreid components of the method; importing this package registers them."""

from .heads import ClusterMemoryHead
from .ise import ISE
from .losses import CameraProxyLoss, ISELoss
from .memories import CameraProxyMemory, InstanceMemory, Memory
from .timm_backbone import build_timm_backbone

__all__ = [
    "ISE",
    "CameraProxyLoss",
    "CameraProxyMemory",
    "ClusterMemoryHead",
    "ISELoss",
    "InstanceMemory",
    "Memory",
    "build_timm_backbone",
]
