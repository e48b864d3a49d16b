"""fastreid components of the method; importing this package registers them."""

from .heads import ClusterMemoryHead
from .ise import ISE
from .losses import CameraProxyLoss, ISELoss

__all__ = ["ISE", "CameraProxyLoss", "ClusterMemoryHead", "ISELoss"]
