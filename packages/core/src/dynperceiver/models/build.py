"""Build the network from flat numbers."""

from __future__ import annotations

from collections.abc import Sequence

from dynperceiver_runtime import UserError

from ..feature_branches import build_feature_branch
from ..layers import set_with_cp
from ..registry import MODELS
from .dyn_perceiver import DynPerceiver
from .exits import EARLY_EXITS, ExitHeads
from .latent_branch import LatentBranch

__all__ = ['build_model']

BASE_DEPTHS = (3, 3, 9, 3)


def _depths(depth_factors: Sequence[float]) -> tuple[int, ...]:
    if isinstance(depth_factors, str | bytes) or not isinstance(depth_factors, Sequence) or len(depth_factors) != 4:
        raise UserError(f'depth_factors={depth_factors!r}: one factor for each of the four stages is needed, for example (1, 1, 1, 2)')
    depths = tuple(base * factor for base, factor in zip(BASE_DEPTHS, depth_factors, strict=True))
    if any(depth < 1 or depth != int(depth) for depth in depths):
        raise UserError(
            f'depth_factors={tuple(depth_factors)} gives {depths} self-attention layers; each factor times {BASE_DEPTHS} must be a whole '
            'number of at least 1, for example (1, 1, 1, 2)'
        )
    return tuple(int(depth) for depth in depths)


def _last_writing_stage(num_stages: int, z2x: bool, last_z2x: bool) -> int:
    """Last stage whose latent part a backbone's maps depend on."""
    if num_stages == 4 and last_z2x:
        return 4
    if not z2x:
        raise UserError(
            f'z2x={z2x}, last_z2x={last_z2x}, num_stages={num_stages} without exits: the latent code reaches none of the feature maps; '
            'switch z2x or (with 4 stages) last_z2x on, or take the feature branch alone (dynperceiver.build_feature_branch)'
        )
    return min(num_stages, 3)


def _check_numbers(num_latents: int, num_classes: int | None, num_frames: int, num_stages: int, early_exits: str) -> None:
    if num_latents < 8 or num_latents % 8:
        raise UserError(
            f'num_latents={num_latents} is not divisible by 8: three token mixers halve the tokens; choose a positive multiple of 8, for '
            'example 32, 64, 128, 192, 256 or 512'
        )
    if num_classes is not None and num_classes < 1:
        raise UserError(f'num_classes={num_classes}: pass the number of classes, or None for a backbone without exits')
    if num_frames < 1:
        raise UserError(f'num_frames={num_frames}: a clip has at least one frame; pass 1 for images')
    if not 1 <= num_stages <= 4 or (num_classes is not None and num_stages < 4):
        raise UserError(
            f'num_stages={num_stages} with num_classes={num_classes}: 4 stages with exits, 1 to 4 in a backbone (num_classes=None)'
        )
    if early_exits not in EARLY_EXITS:
        raise UserError(
            f'early_exits={early_exits!r}: choose the branch of exits 1 and 2, {" or ".join(map(repr, EARLY_EXITS))}; to train without '
            'early exits, set exit_weights=(0, 0, 0, 1), distill_weight=0 in the loss and fkt=False here'
        )


def build_model(
    feature_branch: str,
    *,
    width: float = 1.0,
    num_latents: int,
    depth_factors: Sequence[float],
    num_classes: int | None = 1000,
    x2z: bool = True,
    z2x: bool = True,
    dwc: bool = True,
    fkt: bool = True,
    last_z2x: bool = True,
    token_mixers: bool = True,
    num_frames: int = 1,
    temporal_shift: str | None = None,
    shift_fold_div: int = 8,
    dropout: float | None = None,
    drop_path: float = 0.0,
    num_stages: int = 4,
    with_cp: bool = False,
    early_exits: str = 'latent',
) -> DynPerceiver:
    """Build a Dyn-Perceiver; every ablation of the paper's Table 3 is a switch.

    Args:
        feature_branch: Name of the CNN; see :data:`dynperceiver.feature_branches.FEATURE_BRANCHES`.
        width: Channel multiplier of the CNN (ResNet: multiples of 0.125; MobileNet-v3, EfficientNet-Lite: any; RegNetY: 1.0).
        num_latents: Tokens of the latent code in stage 1, a multiple of 8.
        depth_factors: Four factors on the self-attention depths (3, 3, 9, 3).
        num_classes: Classes of every exit; ``None`` builds no exits (a backbone).
        x2z: Feature-to-latent attention in stages 2..4 (stage 1's always stays).
        z2x: Latent-to-feature attention after stages 1..3.
        dwc: Depthwise 7x7 convolution before feature-to-latent attention.
        fkt: Forward knowledge transfer from exit 1 to 2 and from exit 2 to 4.
        last_z2x: Latent-to-feature attention after stage 4.
        token_mixers: Halve the tokens between stages; without, all stages keep ``num_latents`` tokens.
        num_frames: Frames per clip (video); 1 for images.
        temporal_shift: ``None``, ``'bidirectional'`` or ``'unidirectional'`` shift in the CNN's blocks.
        shift_fold_div: One part in this many of the channels moves each way.
        dropout: Dropout of the feature head (the ImageNet recipes of ResNet and MobileNet-v3 train with 0.2). ``None`` is that of the
            variant: none, or for EfficientNet-Lite 0.2 or 0.3.
        drop_path: Largest stochastic-depth rate of the CNN (the ResNet recipe trains with 0.2).
        num_stages: Stages to build, for a backbone whose last maps nobody needs; 4 where there are exits. Without exits the latent
            branch, too, ends where it last writes to the feature map, so that every parameter is used.
        with_cp: Activation checkpointing: less memory in training for more time.
        early_exits: Branch in which exits 1 and 2 stand: ``'latent'``, or for the comparison of the paper's Table 2 ``'feature'``, on the
            pooled x_2 and x_3.

    Raises:
        UserError: For an unknown name or a number outside its rule; the message says the remedy.
    """
    _check_numbers(num_latents, num_classes, num_frames, num_stages, early_exits)
    latent_stages = 4 if num_classes is not None else _last_writing_stage(num_stages, z2x, last_z2x)
    depths = _depths(depth_factors)
    branch = build_feature_branch(
        feature_branch,
        width=width,
        num_frames=num_frames,
        temporal_shift=temporal_shift,
        shift_fold_div=shift_fold_div,
        drop_path=drop_path,
    )
    latent_branch = LatentBranch(
        branch.channels,
        num_latents,
        depths,
        x2z=x2z,
        z2x=z2x,
        dwc=dwc,
        last_z2x=last_z2x,
        token_mixers=token_mixers,
        num_stages=latent_stages,
    )
    branch.drop_stages(num_stages)
    exits = None
    if num_classes is not None:
        head_dropout = branch.dropout if dropout is None else dropout
        exits = ExitHeads(branch.channels, num_classes, fkt, branch.head_channels, head_dropout, early_exits)
    network = DynPerceiver(branch, latent_branch, exits, num_frames)
    set_with_cp(network, with_cp)
    return network


MODELS.register_module(name='DynPerceiver', module=build_model)
