"""Backbones for MMDetection: a Dyn-Perceiver without exits, and its feature branch alone to measure it against.

Shape suffixes: B images, C channels, H/W feature size.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dynperceiver import build_feature_branch, build_model
from dynperceiver.feature_branches import FeatureBranch, FeatureShapes, feature_shapes, pyramid_levels
from dynperceiver.layers import set_with_cp
from dynperceiver_runtime import UserError

from ..registry import MODELS

__all__ = ['DynPerceiverBackbone', 'FeatureBranchBackbone', 'PyramidBackbone', 'published_shapes']


def _check_out_indices(out_indices: Sequence[int]) -> tuple[int, ...]:
    indices = tuple(out_indices)
    if not indices or any(index not in range(4) for index in indices) or list(indices) != sorted(set(indices)):
        raise UserError(
            f'out_indices={indices}: pass one to four of 0, 1, 2, 3 in rising order; they stand for the maps of strides 4, 8, 16 and 32'
        )
    return indices


def published_shapes(feature_branch: str, width: float = 1.0, out_indices: Sequence[int] = (0, 1, 2, 3)) -> FeatureShapes:
    """Channels and strides of the maps that a backbone with these settings returns, without building it.

    Args:
        feature_branch: Name of the CNN.
        width: Channel multiplier of the CNN.
        out_indices: Maps to return, rising: 0, 1, 2, 3 for strides 4, 8, 16, 32.

    Raises:
        UserError: For an unknown name, width or map.
    """
    shapes = feature_shapes(feature_branch, width)
    return shapes.choose([pyramid_levels(shapes.strides)[index] for index in _check_out_indices(out_indices)])


class PyramidBackbone(BaseModule):
    """What both backbones have in common: choice of maps, freezing, norms in evaluation mode.

    A subclass builds its network and then calls :meth:`publish`.

    Args:
        out_indices: Maps to return, rising: 0, 1, 2, 3 for strides 4, 8, 16, 32.
        frozen_stages: Stages that do not learn; -1 for none, 0 for the stem alone, 1 for stem and stage 1, and so on up to 4.
        norm_eval: Whether BatchNorm keeps its running statistics while training.
        init_cfg: See mmengine's ``BaseModule``.

    Attributes:
        out_channels: Channels of the maps that ``forward`` returns.
        out_strides: Their strides against the image.

    Raises:
        UserError: If ``out_indices`` or ``frozen_stages`` is out of its range.
    """

    def __init__(
        self,
        out_indices: Sequence[int],
        frozen_stages: int = -1,
        norm_eval: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if frozen_stages not in range(-1, 5):
            raise UserError(f'frozen_stages={frozen_stages}: pass -1 (none), 0 (the stem), or 1 to 4 (the stem and so many stages)')
        self.out_indices = _check_out_indices(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.out_channels: tuple[int, ...] = ()
        self.out_strides: tuple[int, ...] = ()

    def publish(self, feature_branch: FeatureBranch) -> None:
        """Say what comes out, and freeze what shall not learn."""
        shapes = feature_branch.shapes.choose(self.levels(feature_branch.strides))
        self.out_channels, self.out_strides = shapes.channels, shapes.strides
        for part in self._frozen_parts():
            part.requires_grad_(False)

    def levels(self, strides: Sequence[int]) -> tuple[int, ...]:
        """Numbers i of the maps x_i that ``out_indices`` ask for, given the strides of x_0 .. x_4."""
        return tuple(pyramid_levels(strides)[index] for index in self.out_indices)

    def pyramid(self, images_BCHW: Tensor) -> tuple[Tensor, ...]:
        """The maps, in any memory format, which is that of the output."""
        raise NotImplementedError(f'{type(self).__name__} does not say how to compute its maps; override pyramid()')

    def stage_parts(self, stage: int) -> Iterator[nn.Module | nn.Parameter]:
        """What belongs to the stem (``stage=0``) or a stage (1..4)."""
        raise NotImplementedError(f'{type(self).__name__} does not say what its stages are; override stage_parts()')

    def _frozen_parts(self) -> Iterator[nn.Module | nn.Parameter]:
        for stage in range(self.frozen_stages + 1):
            yield from self.stage_parts(stage)

    def train(self, mode: bool = True) -> PyramidBackbone:
        """Switch to training or evaluation; frozen stages, and norms with ``norm_eval``, stay in evaluation."""
        super().train(mode)
        if mode:
            for part in self._frozen_parts():
                if isinstance(part, nn.Module):
                    part.eval()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self

    def init_weights(self) -> None:
        """Load what ``init_cfg`` names; warn where random weights would never learn."""
        super().init_weights()
        checkpoint = self.init_cfg.get('checkpoint') if isinstance(self.init_cfg, dict) else self.init_cfg
        if not checkpoint and (self.frozen_stages >= 0 or self.norm_eval):
            print_log(
                f'{type(self).__name__} starts from random weights with frozen_stages={self.frozen_stages}, norm_eval={self.norm_eval}, '
                'which suit an image checkpoint only: unless load_from or --resume brings weights, give one '
                '(--cfg-options model.backbone.init_cfg.checkpoint=PATH), or let everything learn '
                '(--cfg-options model.backbone.frozen_stages=-1 model.backbone.norm_eval=False)',
                logger='current',
                level=logging.WARNING,
            )

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of a batch of images of any size, shape (B, 3, H, W).

        Returns:
            One map per entry of ``out_indices``, shape (B, C, ceil(H / stride), ceil(W / stride)), channels-last as they were computed;
            see :mod:`dynperceiver_det.compat` for operators that need another format.
        """
        return self.pyramid(images_BCHW)


@MMDET_MODELS.register_module()
@MODELS.register_module()
class DynPerceiverBackbone(PyramidBackbone):
    """Dyn-Perceiver without exits as a backbone (paper section 4.4): x_1 .. x_4, each after its latent-to-feature attention.

    On MobileNet-v3, whose stages have strides 8, 16, 32 and 32, the four maps are the stem's, x_1, x_2 and x_4.

    Only what the chosen maps depend on is built, so that distributed training needs no ``find_unused_parameters``.

    Args:
        feature_branch: Name of the CNN; see :data:`dynperceiver.feature_branches.FEATURE_BRANCHES`.
        num_latents: Tokens of the latent code in stage 1, a multiple of 8.
        depth_factors: Four factors on the self-attention depths (3, 3, 9, 3).
        width: Channel multiplier of the CNN (ResNet, MobileNet-v3).
        x2z: Feature-to-latent attention in stages 2..4.
        z2x: Latent-to-feature attention in stages 1..3.
        dwc: Depthwise 7x7 convolution before the feature map is summarised for the latent code.
        last_z2x: Latent-to-feature attention after stage 4.
        token_mixers: Halve the tokens between stages.
        drop_path: Largest stochastic-depth rate of the CNN.
        out_indices: Maps to return, rising: 0, 1, 2, 3 for strides 4, 8, 16, 32.
        frozen_stages: Stages of both branches that do not learn; -1 for none, 0 for stem and initial latent code, 1 for these and
            stage 1, and so on up to 4.
        norm_eval: Whether BatchNorm keeps its running statistics while training, as is usual with an image checkpoint.
        with_cp: Activation checkpointing: less memory in training for more time.
        init_cfg: An image checkpoint, ours or the authors': ``dict(type='dynperceiver.ImageCheckpoint', checkpoint=PATH)``.

    Raises:
        UserError: For an unknown name or a number outside its rule; the message says the remedy.
    """

    def __init__(
        self,
        feature_branch: str,
        num_latents: int = 128,
        depth_factors: Sequence[float] = (1, 1, 1, 1),
        width: float = 1.0,
        x2z: bool = True,
        z2x: bool = True,
        dwc: bool = True,
        last_z2x: bool = True,
        token_mixers: bool = True,
        drop_path: float = 0.0,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(out_indices, frozen_stages, norm_eval, init_cfg)
        last_level = self.levels(feature_shapes(feature_branch, width).strides)[-1]
        if last_level == 0:
            raise UserError(
                f'out_indices={self.out_indices} on {feature_branch} asks for the map of the stem alone, which no latent code reaches; add '
                'another map, or take FeatureBranchBackbone'
            )
        self.network = build_model(
            feature_branch,
            width=width,
            num_latents=num_latents,
            depth_factors=depth_factors,
            num_classes=None,
            x2z=x2z,
            z2x=z2x,
            dwc=dwc,
            last_z2x=last_z2x,
            token_mixers=token_mixers,
            drop_path=drop_path,
            num_stages=last_level,
            with_cp=with_cp,
        )
        self.publish(self.network.feature_branch)

    def pyramid(self, images_BCHW: Tensor) -> tuple[Tensor, ...]:
        """The maps, each after its latent-to-feature attention."""
        return self.network.pyramid(images_BCHW, self.levels(self.network.feature_branch.strides))

    def stage_parts(self, stage: int) -> Iterator[nn.Module | nn.Parameter]:
        """Both branches' parts of the stem (``stage=0``) or a stage (1..4)."""
        return self.network.stage_parts(stage)


@MMDET_MODELS.register_module()
@MODELS.register_module()
class FeatureBranchBackbone(PyramidBackbone):
    """A feature branch without latent code: ResNet, RegNetY or MobileNet-v3 as a plain backbone, the baseline of a Dyn-Perceiver.

    Args:
        feature_branch: Name of the CNN; see :data:`dynperceiver.feature_branches.FEATURE_BRANCHES`.
        width: Channel multiplier of the CNN (ResNet, MobileNet-v3).
        drop_path: Largest stochastic-depth rate of the CNN.
        out_indices: Maps to return, rising: 0, 1, 2, 3 for strides 4, 8, 16, 32.
        frozen_stages: Stages that do not learn; -1 for none, 0 for the stem, 1 for stem and stage 1, and so on up to 4.
        norm_eval: Whether BatchNorm keeps its running statistics while training.
        with_cp: Activation checkpointing: less memory in training for more time.
        init_cfg: ``dict(type='dynperceiver.ImageCheckpoint', checkpoint=PATH)`` loads the feature branch of an image checkpoint.

    Raises:
        UserError: For an unknown name or a number outside its rule; the message says the remedy.
    """

    def __init__(
        self,
        feature_branch: str,
        width: float = 1.0,
        drop_path: float = 0.0,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(out_indices, frozen_stages, norm_eval, init_cfg)
        self.feature_branch = build_feature_branch(feature_branch, width=width, drop_path=drop_path)
        self.feature_branch.drop_stages(self.levels(self.feature_branch.strides)[-1])
        set_with_cp(self.feature_branch, with_cp)
        self.publish(self.feature_branch)

    def pyramid(self, images_BCHW: Tensor) -> tuple[Tensor, ...]:
        """The maps of the CNN."""
        return self.feature_branch.pyramid(images_BCHW, self.levels(self.feature_branch.strides))

    def stage_parts(self, stage: int) -> Iterator[nn.Module | nn.Parameter]:
        """The stem (``stage=0``) or a stage (1..4)."""
        yield self.feature_branch.get_submodule(self.feature_branch.stage_module(stage))
