"""MobileNet-v3-Large feature branches with a width multiplier (Howard et al., ICCV 2019), and the blocks of all its relatives.

Shape suffixes: B rows, C channels, H/W feature size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from dynperceiver_runtime import UserError

from ..layers import BlockSequence, SqueezeExcitation
from .base import FeatureBranch, ResidualBlock, ShiftFactory, initialize_convolutions, make_divisible

__all__ = ['InvertedResidual', 'InvertedResidualRow', 'MobileNetV3Variant', 'conv_norm', 'inverted_residuals']


@dataclass(frozen=True)
class InvertedResidualRow:
    """One block of the table, channels before the width multiplier.

    Attributes:
        kernel: Side of the depthwise kernel.
        expanded: Channels of the depthwise convolution.
        out: Output channels.
        se: Whether squeeze-excitation follows the depthwise convolution.
        hardswish: Hardswish instead of ReLU.
        stride: Spatial stride.
        relu6: ReLU6 instead of ReLU.
        same_padding: Whether the depthwise convolution pads as TensorFlow does; see :class:`SamePaddingConv2d`.
    """

    kernel: int
    expanded: int
    out: int
    se: bool
    hardswish: bool
    stride: int
    relu6: bool = False
    same_padding: bool = False

    @property
    def activation(self) -> type[nn.Module]:
        """Activation behind the expansion and the depthwise convolution."""
        if self.hardswish:
            return nn.Hardswish
        return nn.ReLU6 if self.relu6 else nn.ReLU


class SamePaddingConv2d(nn.Conv2d):
    """A convolution of stride 2 and an odd kernel that pads as TensorFlow's 'same' does.

    Along an even side of the map one pixel more is padded at its end (right, bottom) than at its beginning, so that the kernel stands
    one pixel further than PyTorch's would; an odd side is padded alike at both ends. The output has half the pixels, rounded up, as
    PyTorch's has. Sizes are numbers while a network is exported, so that no shape arithmetic gets into the graph.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        even_h, even_w = (1 - side % 2 for side in input.shape[2:])
        if even_h or even_w:
            input = F.pad(input, (0, even_w, 0, even_h))
        padding = (self.kernel_size[0] // 2 - even_h, self.kernel_size[1] // 2 - even_w)
        return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = None,
    same_padding: bool = False,
) -> nn.Sequential:
    """Convolution without bias, BatchNorm, and an activation where one is given.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Side of the kernel, odd.
        stride: Spatial stride.
        groups: Groups of the convolution.
        activation: Class of the activation.
        same_padding: Whether to pad as TensorFlow does, which differs at stride 2; see :class:`SamePaddingConv2d`.
    """
    conv = SamePaddingConv2d if same_padding and stride == 2 else nn.Conv2d
    layers: list[nn.Module] = [
        conv(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01),
    ]
    if activation is not None:
        layers.append(activation(inplace=True))
    return nn.Sequential(*layers)


class InvertedResidual(ResidualBlock):
    """1x1 expansion, depthwise convolution with the stride, squeeze-excitation, linear 1x1; identity shortcut where shapes allow.

    Only blocks with the shortcut are temporally shifted, so that a shift never costs spatial information.

    Args:
        in_channels: Channels of the input.
        row: The block's row of the table.
        width: Multiplier of the row's channels.
        temporal_shift: See :class:`ResidualBlock`.
        drop_path: See :class:`ResidualBlock`.

    Attributes:
        roles: What each layer of ``block`` is, in order: some of ``'expand'``, ``'depthwise'``, ``'se'`` and ``'project'``.
    """

    def __init__(
        self, in_channels: int, row: InvertedResidualRow, width: float, temporal_shift: ShiftFactory | None, drop_path: float
    ) -> None:
        expanded, out_channels = make_divisible(row.expanded * width), make_divisible(row.out * width)
        has_shortcut = row.stride == 1 and in_channels == out_channels
        super().__init__(temporal_shift if has_shortcut else None, drop_path if has_shortcut else 0.0)
        self.has_shortcut = has_shortcut
        self.out_channels = out_channels
        layers: dict[str, nn.Module] = {}
        if expanded != in_channels:
            layers['expand'] = conv_norm(in_channels, expanded, activation=row.activation)
        layers['depthwise'] = conv_norm(
            expanded, expanded, row.kernel, row.stride, groups=expanded, activation=row.activation, same_padding=row.same_padding
        )
        if row.se:
            layers['se'] = SqueezeExcitation(expanded, make_divisible(expanded // 4), nn.Hardsigmoid)
        layers['project'] = conv_norm(expanded, out_channels)
        self.roles = tuple(layers)
        self.block = nn.Sequential(*layers.values())

    def residual(self, feature_BCHW: Tensor) -> Tensor:
        output: Tensor = self.block(feature_BCHW)
        return output

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Shape (B, in_channels, H, W) to (B, out_channels, H/stride, W/stride)."""
        output = self.run_residual(feature_BCHW)
        return output + feature_BCHW if self.has_shortcut else output


def inverted_residuals(
    in_channels: int,
    parts: Sequence[Sequence[InvertedResidualRow]],
    width: float,
    temporal_shift: ShiftFactory | None,
    drop_path: float,
) -> list[list[nn.Module]]:
    """Blocks that follow each other, part by part; the rate of stochastic depth grows linearly from 0 to ``drop_path``.

    Args:
        in_channels: Channels of the first block's input.
        parts: Rows of the blocks of each part (stem or stage).
        width: Multiplier of the rows' channels.
        temporal_shift: See :class:`ResidualBlock`.
        drop_path: Stochastic-depth rate of the last block.
    """
    total, built = sum(map(len, parts)), 0
    blocks: list[list[nn.Module]] = []
    for rows in parts:
        blocks.append([])
        for row in rows:
            block = InvertedResidual(in_channels, row, width, temporal_shift, drop_path * built / (total - 1))
            blocks[-1].append(block)
            in_channels = block.out_channels
            built += 1
    return blocks


@dataclass(frozen=True)
class MobileNetV3Variant:
    """A row of the MobileNet-v3 table.

    Attributes:
        name: Name under which users ask for it.
        stem: Blocks that follow the first convolution within the stem.
        stages: Blocks of the four stages.
        stem_channels: Channels of the first convolution, before the width multiplier.
        head_channels: Hidden width of the classifier head, before the width multiplier.
        last_expansion: How many times as many channels the 1x1 convolution at the end has as the block before it.
        strides: Strides of x_0 .. x_4 against the image.
    """

    name: str
    stem: tuple[InvertedResidualRow, ...]
    stages: tuple[tuple[InvertedResidualRow, ...], ...]
    stem_channels: int = 16
    head_channels: int = 1280
    last_expansion: int = 6
    strides: tuple[int, ...] = (4, 8, 16, 32, 32)

    def channels(self, width: float) -> tuple[int, ...]:
        """Channels of x_0 .. x_4; ``width`` multiplies all channels, rounded to multiples of 8.

        Raises:
            UserError: If ``width`` is not positive.
        """
        if width <= 0:
            raise UserError(f'width={width} for {self.name}: a positive multiplier is needed, such as 0.5, 0.75, 1.0, 1.25, 1.5 or 2.0')
        channels = [make_divisible(rows[-1].out * width) for rows in (self.stem, *self.stages)]
        return (*channels[:-1], self.last_expansion * channels[-1])

    def build(self, width: float, temporal_shift: ShiftFactory | None, drop_path: float) -> FeatureBranch:
        """Build the branch; ``width`` multiplies all channels, rounded to multiples of 8.

        Raises:
            UserError: If ``width`` is not positive.
        """
        channels = self.channels(width)
        first = make_divisible(self.stem_channels * width)
        stem, *stages = inverted_residuals(first, (self.stem, *self.stages), width, temporal_shift, drop_path)
        stages[-1].append(conv_norm(make_divisible(self.stages[-1][-1].out * width), channels[-1], activation=nn.Hardswish))
        branch = FeatureBranch(
            nn.Sequential(conv_norm(3, first, 3, 2, activation=nn.Hardswish), *stem),
            [BlockSequence(*blocks) for blocks in stages],
            channels,
            strides=self.strides,
            head_channels=make_divisible(self.head_channels * width),
        )
        initialize_convolutions(branch)
        return branch
