"""ResNet feature branches with a width multiplier (He et al., CVPR 2016; 7x7 stem, stride on the 3x3 convolution).

Shape suffixes: B rows, C channels, H/W feature size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from dynperceiver_runtime import UserError

from ..layers import BlockSequence
from .base import FeatureBranch, ResidualBlock, ShiftFactory, initialize_convolutions

__all__ = ['BasicBlock', 'Bottleneck', 'ResNetVariant']


class _NarrowStridedConv2d(nn.Conv2d):
    """A strided 1x1 convolution as a slice and a plain one, which is the same.

    oneDNN (up to at least 3.12; its issue 6035) writes past its buffer in the backward pass of a strided 1x1 convolution on the CPU
    when a channels-last map of fewer than 16 channels comes in.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(input[..., :: self.stride[0], :: self.stride[1]], weight, bias)


class _ResNetBlock(ResidualBlock):
    """Shortcut, sum and final activation of both kinds of block.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Spatial stride of the block.
        temporal_shift: See :class:`ResidualBlock`.
        drop_path: See :class:`ResidualBlock`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, temporal_shift: ShiftFactory | None, drop_path: float) -> None:
        super().__init__(temporal_shift, drop_path)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            conv = _NarrowStridedConv2d if stride > 1 and in_channels < 16 else nn.Conv2d
            self.downsample = nn.Sequential(conv(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Shape (B, in_channels, H, W) to (B, out_channels, H/stride, W/stride)."""
        shortcut = feature_BCHW if self.downsample is None else self.downsample(feature_BCHW)
        output: Tensor = self.relu(self.run_residual(feature_BCHW) + shortcut)
        return output


class BasicBlock(_ResNetBlock):
    """Two 3x3 convolutions (ResNet-18/34)."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, temporal_shift: ShiftFactory | None, drop_path: float) -> None:
        super().__init__(in_channels, channels, stride, temporal_shift, drop_path)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def residual(self, feature_BCHW: Tensor) -> Tensor:
        output: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(feature_BCHW)))))
        return output


class Bottleneck(_ResNetBlock):
    """1x1, 3x3 with the stride, 1x1 to four times the channels (ResNet-50)."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, temporal_shift: ShiftFactory | None, drop_path: float) -> None:
        super().__init__(in_channels, 4 * channels, stride, temporal_shift, drop_path)
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)

    def residual(self, feature_BCHW: Tensor) -> Tensor:
        feature_BCHW = self.relu(self.bn1(self.conv1(feature_BCHW)))
        feature_BCHW = self.relu(self.bn2(self.conv2(feature_BCHW)))
        output: Tensor = self.bn3(self.conv3(feature_BCHW))
        return output


@dataclass(frozen=True)
class ResNetVariant:
    """A row of the ResNet table.

    Attributes:
        name: Name under which users ask for it.
        block: Kind of block.
        depths: Blocks per stage.
        strides: Strides of x_0 .. x_4 against the image.
    """

    name: str
    block: type[BasicBlock | Bottleneck]
    depths: tuple[int, int, int, int]
    strides: tuple[int, ...] = (4, 4, 8, 16, 32)

    def channels(self, width: float) -> tuple[int, ...]:
        """Channels of x_0 .. x_4; ``width`` multiplies them all.

        Raises:
            UserError: If ``width`` is no positive multiple of 1/8 (64 * width channels must be a multiple of 8).
        """
        if width <= 0 or (64 * width) % 8:
            raise UserError(
                f'width={width} for {self.name}: 64 * width stem channels must be a positive multiple of 8; choose a multiple of 0.125, '
                'for example 0.375, 0.5, 0.625, 0.75 or 1.0'
            )
        base = int(64 * width)
        return (base, *(base * 2**i * self.block.expansion for i in range(len(self.depths))))

    def build(self, width: float, temporal_shift: ShiftFactory | None, drop_path: float) -> FeatureBranch:
        """Build the branch; ``width`` multiplies every channel count, the stem's included.

        Raises:
            UserError: If ``width`` is no positive multiple of 1/8 (64 * width channels must be a multiple of 8).
        """
        channels = self.channels(width)
        base = channels[0]
        stem = nn.Sequential(
            nn.Conv2d(3, base, 7, 2, 3, bias=False), nn.BatchNorm2d(base), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        stages = []
        total, built = sum(self.depths), 0
        for i, depth in enumerate(self.depths):
            planes = channels[i + 1] // self.block.expansion
            blocks = []
            for j in range(depth):
                in_channels = channels[i] if j == 0 else channels[i + 1]
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(self.block(in_channels, planes, stride, temporal_shift, drop_path * built / (total - 1)))
                built += 1
            stages.append(BlockSequence(*blocks))
        branch = FeatureBranch(stem, stages, channels, strides=self.strides)
        initialize_convolutions(branch)
        return branch
