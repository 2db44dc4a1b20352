"""What every feature branch publishes, and what its blocks have in common.

Shape suffixes: B rows, C channels, H/W feature size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dynperceiver_runtime import UserError

from ..layers import IMAGE_LAYOUT, DropPath, TemporalShift

__all__ = [
    'FeatureBranch',
    'FeatureBranchVariant',
    'FeatureShapes',
    'ResidualBlock',
    'ShiftFactory',
    'check_levels',
    'initialize_convolutions',
    'make_divisible',
    'pyramid_levels',
]

ShiftFactory = Callable[[], TemporalShift]
PYRAMID_STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class FeatureShapes:
    """Shapes of feature maps, as a variant publishes them before anything is built.

    Attributes:
        channels: Channels of each map.
        strides: Stride of each map against the image.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def choose(self, levels: Sequence[int]) -> FeatureShapes:
        """Shapes of the maps of these numbers, counted from 0."""
        return FeatureShapes(tuple(self.channels[level] for level in levels), tuple(self.strides[level] for level in levels))


class FeatureBranch(nn.Module):
    """A CNN cut into a stem and stages, four in all of ours; with a classifier, it is the backbone-only baseline that a Dyn-Perceiver is
    compared with.

    Args:
        stem: Images (B, 3, H, W) to x_0.
        stages: Modules, x_{i-1} to x_i.
        channels: Channels of x_0 .. x_4, or of as many maps as there are.
        strides: Strides of these maps against the image.
        head_channels: Hidden width of a two-layer classifier head, where the architecture has one (MobileNet-v3).
        dropout: Dropout of the classifier where a config sets none (EfficientNet-Lite's differs among its variants).

    Attributes:
        layouts: Order of the axes of these maps.
        own_exit: The classifier that the CNN came with; ``None`` where it came without.
        input_dims: Axes of the input: 4 for images, 5 for clips (B, 3, T, H, W) that a CNN takes as a whole.
        computes_shapes: Whether its exported graphs may compute with shapes, which ours need not and others' code does.

    Raises:
        ValueError: If there is not one more of channels and strides than of stages.
    """

    input_dims = 4
    computes_shapes = False

    def __init__(
        self,
        stem: nn.Module,
        stages: Iterable[nn.Module],
        channels: Sequence[int],
        strides: Sequence[int],
        head_channels: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.channels = tuple(channels)
        self.strides = tuple(strides)
        self.head_channels = head_channels
        self.own_exit: nn.Module | None = None
        self.dropout = dropout
        self.frozen_stages = -1
        self.layouts = (IMAGE_LAYOUT,) * len(self.channels)
        self.num_stages = len(self.stages)
        if not self.stages or len(self.channels) != len(self.stages) + 1 or len(self.strides) != len(self.channels):
            raise ValueError(
                f'{len(self.stages)} stages, {len(self.channels)} channels and {len(self.strides)} strides were given; a feature branch '
                'publishes channels and strides of the map of its stem and of that of each stage, x_0 .. x_4 where it has four'
            )

    def freeze_stages(self, num_stages: int) -> None:
        """Keep the stem and the first stages as they are in training, BatchNorm statistics included.

        Args:
            num_stages: How many stages; 0 for the stem alone, -1 for nothing.
        """
        if not -1 <= num_stages <= self.num_stages:
            raise UserError(f'frozen_stages={num_stages}: pass -1 for none, 0 for the stem, or up to {self.num_stages} for the stages too')
        self.frozen_stages = num_stages
        for part in self._frozen_parts():
            part.requires_grad_(False).eval()

    def _frozen_parts(self) -> list[nn.Module]:
        return [self.stem, *self.stages][: self.frozen_stages + 1]

    def train(self, mode: bool = True) -> FeatureBranch:
        """Training or evaluation mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen_parts():
            part.eval()
        return self

    @property
    def shapes(self) -> FeatureShapes:
        """Shapes of x_0 .. x_4."""
        return FeatureShapes(self.channels, self.strides)

    @property
    def pyramid_levels(self) -> tuple[int, ...]:
        """Numbers i of the maps x_i that make a detection pyramid; see :func:`pyramid_levels`."""
        return pyramid_levels(self.strides)

    @staticmethod
    def stage_module(stage: int) -> str:
        """Name of the module of the stem (``stage=0``) or of a stage (1..4)."""
        return 'stem' if stage == 0 else f'stages.{stage - 1}'

    @property
    def unused_prefixes(self) -> tuple[str, ...]:
        """Prefixes of the keys that a checkpoint of all stages has and this branch has no use for, since its last stages were dropped."""
        return tuple(f'{self.stage_module(stage)}.' for stage in range(self.num_stages + 1, len(self.channels)))

    def drop_stages(self, num_stages: int) -> None:
        """Keep the first ``num_stages`` stages; the others become the identity."""
        self.num_stages = num_stages
        for i in range(num_stages, len(self.stages)):
            self.stages[i] = nn.Identity()

    def lay_out(self, images_BCHW: Tensor) -> Tensor:
        """Images in the layout that is fastest: with channels-last images every convolution stays channels-last, and maps become tokens
        and back without a copy."""
        return images_BCHW.contiguous(memory_format=torch.channels_last) if images_BCHW.dim() == 4 else images_BCHW

    def pyramid(self, images_BCHW: Tensor, levels: Sequence[int] = (1, 2, 3, 4)) -> tuple[Tensor, ...]:
        """Feature maps without any latent code.

        Args:
            images_BCHW: Images, shape (B, 3, H, W), any size.
            levels: Numbers i of the maps x_i to return, in rising order.

        Raises:
            ValueError: If there are no such maps.
        """
        check_levels(levels, self.num_stages)
        feature_BCHW = self.stem(self.lay_out(images_BCHW))
        maps = [feature_BCHW]
        for stage in self.stages:
            feature_BCHW = stage(feature_BCHW)
            maps.append(feature_BCHW)
        return tuple(maps[level] for level in levels)

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, ...]:
        """The CNN alone: images (B, 3, H, W) to x_1 .. x_4, without any latent code."""
        return self.pyramid(images_BCHW)


def pyramid_levels(strides: Sequence[int]) -> tuple[int, ...]:
    """Numbers i of the maps x_i that make a detection pyramid: the last map of each stride 4, 8, 16, 32.

    These are 1, 2, 3, 4, but on MobileNet-v3, whose stages have strides 8, 16, 32 and 32, the stem gives stride 4: 0, 1, 2, 4.

    Args:
        strides: Strides of x_0 .. x_4 against the image.
    """
    last = {stride: number for number, stride in enumerate(strides)}
    return tuple(last[stride] for stride in PYRAMID_STRIDES)


def check_levels(levels: Sequence[int], num_stages: int) -> None:
    """Check which maps a pyramid is to have: a stage that was not built would hand on an earlier map under a later number.

    Args:
        levels: Numbers i of the maps x_i.
        num_stages: Stages of the network.

    Raises:
        ValueError: If they do not rise, or one is not there.
    """
    if not levels or any(level not in range(num_stages + 1) for level in levels) or list(levels) != sorted(set(levels)):
        raise UserError(
            f'levels={tuple(levels)} of a network with {num_stages} stages: pass one or more of {tuple(range(num_stages + 1))} in rising '
            'order; they stand for the maps x_i, 0 for that of the stem'
        )


class FeatureBranchVariant(Protocol):
    """A row of the table of architectures: it knows its name and how to build itself."""

    @property
    def name(self) -> str:
        """Name under which users ask for it."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of x_0 .. x_4 against the image."""

    def channels(self, width: float) -> tuple[int, ...]:
        """Channels of x_0 .. x_4, which :meth:`build` builds.

        Args:
            width: Multiplier of every channel count.

        Raises:
            UserError: If the architecture does not come in this width.
        """

    def build(self, width: float, temporal_shift: ShiftFactory | None, drop_path: float) -> FeatureBranch:
        """Build the branch.

        Args:
            width: Multiplier of every channel count.
            temporal_shift: Makes the shift of one block; ``None`` for images.
            drop_path: Largest stochastic-depth rate; it grows linearly over the blocks.

        Raises:
            ValueError: If the architecture does not come in this width.
        """


class ResidualBlock(nn.Module):
    """A block whose residual branch may see temporally shifted input and may be dropped while training.

    Args:
        temporal_shift: Makes the shift on the input of the residual branch (the shortcut is never shifted); ``None`` for none.
        drop_path: Stochastic-depth rate of this block.
    """

    def __init__(self, temporal_shift: ShiftFactory | None = None, drop_path: float = 0.0) -> None:
        super().__init__()
        self.shift = temporal_shift() if temporal_shift is not None else None
        self.drop_path = DropPath(drop_path) if drop_path else None

    def residual(self, feature_BCHW: Tensor) -> Tensor:
        """The residual branch proper."""
        raise NotImplementedError(f'{type(self).__name__} does not say what its residual branch is; override residual()')

    def run_residual(self, feature_BCHW: Tensor) -> Tensor:
        """The residual branch with the shift before and stochastic depth after it."""
        if self.shift is not None:
            feature_BCHW = self.shift(feature_BCHW)
        feature_BCHW = self.residual(feature_BCHW)
        return feature_BCHW if self.drop_path is None else self.drop_path(feature_BCHW)


def initialize_convolutions(module: nn.Module) -> None:
    """He initialisation (normal, fan out) for convolutions; norms start as the identity."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode='fan_out', nonlinearity='relu')
            if child.bias is not None:
                nn.init.zeros_(child.bias)


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round channels to a multiple of ``divisor``, never more than 10 % down (MobileNet's rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
