"""Instance norm that keeps the channels-last layout. torch's and fastreid's IBN give contiguous images back, so that every
convolution after them copies its input, and its gradient, into the other layout and the next ones compute in the slower one."""

import torch
from fastreid.layers import IBN
from torch import Tensor, nn

_IMAGE = (2, 3)  # the dimensions of one channel of one image


class ChannelsLastInstanceNorm2d(nn.InstanceNorm2d):
    """``nn.InstanceNorm2d`` with weights and without running statistics, equal up to rounding; any layout stays as it is."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_tracing():  # exported files have an operation for it
            return super().forward(input)
        return _InstanceNorm.apply(input, self.weight, self.bias, self.eps)


class ChannelsLastIBN(IBN):
    """fastreid's instance-batch norm (Pan et al., ECCV 2018): half of the channels by instance, half by batch."""

    def forward(self, x: Tensor) -> Tensor:
        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        halves = x.split([self.half, x.shape[1] - self.half], dim=1)
        by_instance, by_batch = (half.contiguous(memory_format=layout) for half in halves)
        return torch.cat([self.IN(by_instance), self.BN(by_batch)], dim=1)


def keep_channels_last(network: nn.Module) -> None:
    """Makes the instance norms of a network keep their input's layout, in place: parameters and names stay."""
    for module in network.modules():
        if type(module) is IBN:
            module.__class__ = ChannelsLastIBN
        elif type(module) is nn.InstanceNorm2d and module.affine and not module.track_running_stats:
            module.__class__ = ChannelsLastInstanceNorm2d


class _InstanceNorm(torch.autograd.Function):
    """One pass over the images to add up, one to normalise, and the same for the gradient; statistics in float32."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        variance, mean = torch.var_mean(x.float(), _IMAGE, correction=0, keepdim=True)
        inverse = torch.rsqrt(variance + eps)
        ctx.save_for_backward(x, weight, mean, inverse)
        scale = inverse * weight.view(1, -1, 1, 1)
        return torch.addcmul(bias.view(1, -1, 1, 1) - mean * scale, x, scale).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        x, weight, mean, inverse = ctx.saved_tensors
        values = gradient.float()
        total = values.sum(_IMAGE, keepdim=True)
        product = ((values * x).sum(_IMAGE, keepdim=True) - total * mean) * inverse  # with the normalised images
        count, scale = x.shape[2] * x.shape[3], inverse * weight.view(1, -1, 1, 1)
        slope = scale * inverse * product / -count
        constant = scale * total / -count - slope * mean
        own = torch.addcmul(torch.addcmul(constant, x, slope), values, scale).to(x.dtype)
        return own, product.sum((0, *_IMAGE)), total.sum((0, *_IMAGE)), None
