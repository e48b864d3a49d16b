"""fastreid components of the method; importing this package registers them."""

from .heads import ClusterMemoryHead
from .ise import ISE
from .losses import ISELoss

__all__ = ["ISE", "ClusterMemoryHead", "ISELoss"]
