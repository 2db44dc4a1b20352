"""Build the network from flat numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynperceiver_runtime import UserError

from ..feature_branches import FeatureBranch, build_feature_branch
from ..layers import set_with_cp
from ..registry import MODELS
from .dyn_perceiver import DynPerceiver
from .exits import EARLY_EXITS, ExitHeads
from .latent_branch import LatentBranch
from .segment_parts import segment_steps

__all__ = ['build_model']

BASE_DEPTHS = (3, 3, 9, 3)
PAPER_FORM = dict(
    z2x=True, dwc=True, fkt=True, last_z2x=True, token_mixers=True, merged_exit=True, early_exits='latent', widening=4, max_tokens=None
)
LEAN_FORM = dict(
    z2x=False, dwc=False, fkt=False, last_z2x=False, token_mixers=False, merged_exit=False, early_exits='joined', widening=2, max_tokens=100
)


def _depths(depth_factors: Sequence[float] | None, latent_depth: int | None, num_stages: int, is_lean: bool) -> tuple[int, ...]:
    if latent_depth is not None and (latent_depth < 0 or not is_lean or depth_factors is not None):
        raise UserError(f'latent_depth={latent_depth}: pass 0 or more, together with latent_width and without depth_factors')
    if depth_factors is None and is_lean:
        return (1 if latent_depth is None else latent_depth,) * num_stages
    if isinstance(depth_factors, str | bytes) or not isinstance(depth_factors, Sequence) or len(depth_factors) != 4:
        raise UserError(f'depth_factors={depth_factors!r}: one factor for each of the four stages is needed, for example (1, 1, 1, 2)')
    if num_stages != 4:
        raise UserError(f'depth_factors={tuple(depth_factors)} with {num_stages} stages: leave it out, for one layer per read')
    least = 0 if is_lean else 1
    depths = tuple(base * factor for base, factor in zip(BASE_DEPTHS, depth_factors, strict=True))
    if any(depth < least or depth != int(depth) for depth in depths):
        raise UserError(
            f'depth_factors={tuple(depth_factors)} gives {depths} self-attention layers; each factor times {BASE_DEPTHS} must be a whole '
            f'number of at least {least}, for example (1, 1, 1, 2)'
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


def _check_numbers(
    num_latents: int, num_classes: int | None, num_frames: int, num_stages: int, token_mixers: bool, count: int = 4
) -> None:
    if num_latents < 1 and not token_mixers:
        raise UserError(f'num_latents={num_latents}: a code has at least one token; pass for example 8')
    if num_latents < 1 or (num_latents % 8 and token_mixers):
        raise UserError(
            f'num_latents={num_latents} is not divisible by 8: three token mixers halve the tokens; choose a positive multiple of 8, for '
            'example 32, 64, 128, 192, 256 or 512'
        )
    if num_classes is not None and num_classes < 1:
        raise UserError(f'num_classes={num_classes}: pass the number of classes, or None for a backbone without exits')
    if num_frames < 1:
        raise UserError(f'num_frames={num_frames}: a clip has at least one frame; pass 1 for images')
    if not 1 <= num_stages <= count or (num_classes is not None and num_stages < count):
        raise UserError(
            f'num_stages={num_stages} with num_classes={num_classes}: {count} stages with exits, 1 to {count} in a backbone '
            '(num_classes=None)'
        )


def _stages(option: str, maps: Sequence[int], num_stages: int) -> tuple[int, ...]:
    """Stages of the latent code by the maps that they read: stage i reads x_{i-1}."""
    stages = tuple(int(number) + 1 for number in maps)
    if list(stages) != sorted(set(stages)) or not all(1 <= stage <= num_stages for stage in stages):
        raise UserError(
            f"{option}={tuple(maps)}: pass numbers i of maps x_i, rising, from 0 (the stem's) to {num_stages - 1}, for example (2, 3)"
        )
    return stages


def _reads_and_exits(
    read_maps: Sequence[int] | None, exit_maps: Sequence[int] | None, num_stages: int, is_lean: bool, early_exits: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Stages that read, and stages that an early exit follows."""
    last_two = range(max(0, num_stages - 2), num_stages)
    if read_maps is None:
        read_maps = () if early_exits == 'probe' else last_two if is_lean else range(num_stages)
    if exit_maps is None:
        exit_maps = read_maps if is_lean and read_maps else last_two
    reads, exits = _stages('read_maps', read_maps, num_stages), _stages('exit_maps', exit_maps, num_stages)
    if not exits:
        raise UserError('exit_maps=(): there is no early exit then; name the maps behind which one stands, or take a StaticTrunk')
    if early_exits in ('latent', 'joined') and (not reads or reads[0] > exits[0]):
        raise UserError(
            f'read_maps={tuple(read_maps)}, exit_maps={tuple(exit_maps)}: the code has read nothing before the first exit that classifies '
            'it; add an earlier map to read_maps'
        )
    return reads, exits


def _check_form(form: Mapping[str, Any], is_lean: bool, num_classes: int | None, frozen_trunk: bool) -> None:
    if form['early_exits'] not in EARLY_EXITS:
        raise UserError(
            f'early_exits={form["early_exits"]!r}: choose what the early exits classify, {", ".join(map(repr, EARLY_EXITS))}; to train '
            'without early exits, set exit_weights=(0, 0, 0, 1), distill_weight=0 in the loss and fkt=False here'
        )
    if is_lean and form['token_mixers']:
        raise UserError('token_mixers=True with latent_width: a code of constant width has no mixers; leave token_mixers out')
    if form['fkt'] and form['early_exits'] == 'joined':
        raise UserError("fkt=True with early_exits='joined': joined exits take no logits of an earlier exit; set fkt=False")
    if form['dwc'] and form['max_tokens'] is not None:
        raise UserError(
            f'dwc=True with max_tokens={form["max_tokens"]}: the depthwise convolution goes with the 7x7 summary; leave one of them out'
        )
    if num_classes is not None and form['last_z2x'] and not form['merged_exit']:
        raise UserError('last_z2x=True with merged_exit=False: no exit sees what it writes; set last_z2x=False')
    if frozen_trunk and (form['z2x'] or form['last_z2x']):
        raise UserError('frozen_trunk=True with z2x or last_z2x: what writes to its maps changes its answers; set both to False')


def _check_foreign(branch: FeatureBranch, form: Mapping[str, Any], is_lean: bool, num_classes: int | None) -> None:
    """Check what a network that was cut can take: its maps have any layout, and its last stage ends in logits."""
    if not is_lean:
        raise UserError('a network that was cut takes the lean form alone; pass latent_width, for example 128')
    paper = [name for name in ('z2x', 'dwc', 'last_z2x', 'merged_exit') if form[name]]
    if paper or form['early_exits'] == 'feature':
        names = ', '.join(f'{name}=True' for name in paper) or "early_exits='feature'"
        raise UserError(f'{names} with a network that was cut: its maps may have any layout, and end in logits; leave it out')
    if num_classes != branch.channels[-1]:
        raise UserError(f'num_classes={num_classes}, but the network that was cut gives {branch.channels[-1]} logits; pass that number')


def build_model(
    feature_branch: str | Mapping[str, Any] | FeatureBranch,
    *,
    width: float = 1.0,
    num_latents: int,
    depth_factors: Sequence[float] | None = None,
    num_classes: int | None = 1000,
    x2z: bool = True,
    z2x: bool | None = None,
    dwc: bool | None = None,
    fkt: bool | None = None,
    last_z2x: bool | None = None,
    token_mixers: bool | None = None,
    num_frames: int = 1,
    temporal_shift: str | None = None,
    shift_fold_div: int = 8,
    dropout: float | None = None,
    drop_path: float = 0.0,
    num_stages: int | None = None,
    with_cp: bool = False,
    early_exits: str | None = None,
    latent_width: int | None = None,
    latent_depth: int | None = None,
    read_maps: Sequence[int] | None = None,
    exit_maps: Sequence[int] | None = None,
    probe_channels: int | None = None,
    lift_channels: int | None = None,
    max_tokens: int | None = None,
    merged_exit: bool | None = None,
    widening: int | None = None,
    frozen_trunk: bool = False,
    frozen_stages: int = -1,
) -> DynPerceiver:
    """Build a Dyn-Perceiver, in the paper's form, whose ablations (Table 3) are switches, or with ``latent_width`` in the lean form.

    The lean form has a small code of constant width that reads few maps and writes nothing back: no token mixers, expanders, depthwise
    convolutions, latent-to-feature attention, knowledge transfer and merged exit. Its early exits, one after each read, join the code and
    the map that it read; the last exit is the CNN's own. What a form has by default, its arguments can change one by one.

    Args:
        feature_branch: Name of the CNN; see :data:`dynperceiver.feature_branches.FEATURE_BRANCHES`. Or the config of one in MMEngine's
            registry, or a feature branch that is built.
        width: Channel multiplier of the CNN (ResNet: multiples of 0.125; MobileNet-v3, EfficientNet-Lite: any; RegNetY: 1.0).
        num_latents: Tokens of the latent code in stage 1; with token mixers, a multiple of 8. The lean form does with 4 to 8.
        depth_factors: Four factors on the self-attention depths (3, 3, 9, 3). Default in the lean form: one layer per read.
        num_classes: Classes of every exit; ``None`` builds no exits (a backbone).
        x2z: Feature-to-latent attention in stages 2..4 (stage 1's always stays).
        z2x: Latent-to-feature attention after all stages but the last. Default: in the paper's form.
        dwc: Depthwise 7x7 convolution before feature-to-latent attention. Default: in the paper's form.
        fkt: Forward knowledge transfer from exit 1 to 2 and from exit 2 to 4. Default: in the paper's form.
        last_z2x: Latent-to-feature attention after the last stage. Default: where there is a merged exit.
        token_mixers: Halve the tokens between stages; without, all stages keep ``num_latents`` tokens. Default: in the paper's form.
        num_frames: Frames per clip (video); 1 for images.
        temporal_shift: ``None``, ``'bidirectional'`` or ``'unidirectional'`` shift in the CNN's blocks.
        shift_fold_div: One part in this many of the channels moves each way.
        dropout: Dropout of the feature head (the ImageNet recipes of ResNet and MobileNet-v3 train with 0.2) and of joined exits. ``None``
            is that of the variant: none, or for EfficientNet-Lite 0.2 or 0.3; and 0.2 of joined exits.
        drop_path: Largest stochastic-depth rate of the CNN (the ResNet recipe trains with 0.2).
        num_stages: Stages to build, for a backbone whose last maps nobody needs; all where there are exits. Without exits the latent
            branch, too, ends where it last writes to the feature map, so that every parameter is used.
        with_cp: Activation checkpointing: less memory in training for more time.
        early_exits: What the early exits classify: the ``'latent'`` code (default in the paper's form); the pooled ``'feature'`` map, for
            the comparison of the paper's Table 2; both, ``'joined'`` (default in the lean form); or the pooled map by a ``'probe'``, which
            needs no latent code.
        latent_width: Channels of the latent code throughout, a multiple of 4. Default: in each stage those of the map that it reads.
        latent_depth: Self-attention layers after each read of the lean form. Default: 1.
        read_maps: Numbers i of the maps x_i that the code reads, 0 for the stem's. Default: all but the last; in the lean form those
            before the last two stages, (2, 3) of four.
        exit_maps: Numbers i of the maps x_i behind which an early exit stands. Default: in the lean form those that are read, and in the
            paper's those before the last two stages.
        probe_channels: Hidden width of exits that are probes; ``None`` for linear ones.
        lift_channels: Channels to which joined exits lift the pixels of their map before they take the mean; see
            :class:`~dynperceiver.models.JoinedExit`. Default: none.
        max_tokens: Maps are averaged by a whole factor to about so many tokens for a read. Default: 100 in the lean form, and in the
            paper's a 7x7 summary.
        merged_exit: A last exit on both branches. Default: in the paper's form.
        widening: MLP widening of the self-attention. Default: 4, in the lean form 2.
        frozen_trunk: Keep the CNN and its classifier as they are in training, BatchNorm statistics included.
        frozen_stages: The same for the first stages alone: 0 for the stem, n for n stages, too; -1 for none.

    Raises:
        UserError: For an unknown name or a number outside its rule; the message says the remedy.
    """
    is_lean = latent_width is not None
    if latent_width is not None and (latent_width < 4 or latent_width % 4):
        raise UserError(f'latent_width={latent_width}: its attention has 4 heads; pass a positive multiple of 4, for example 128')
    form: dict[str, Any] = dict(LEAN_FORM if is_lean else PAPER_FORM)
    given = dict(z2x=z2x, dwc=dwc, fkt=fkt, token_mixers=token_mixers, merged_exit=merged_exit, early_exits=early_exits)
    form |= {name: value for name, value in {**given, 'widening': widening}.items() if value is not None}
    form['last_z2x'] = (form['last_z2x'] and form['merged_exit']) if last_z2x is None else last_z2x
    form['max_tokens'] = (None if form['dwc'] else form['max_tokens']) if max_tokens is None else max_tokens
    if lift_channels is not None and (lift_channels < 1 or form['early_exits'] != 'joined'):
        raise UserError(f'lift_channels={lift_channels} with early_exits={form["early_exits"]!r}: pass 1 or more, for joined exits')
    _check_form(form, is_lean, num_classes, frozen_trunk)
    numbers = num_latents, num_classes, num_frames
    if isinstance(feature_branch, str):
        _check_numbers(*numbers, 4 if num_stages is None else num_stages, form['token_mixers'])
        branch = build_feature_branch(
            feature_branch,
            width=width,
            num_frames=num_frames,
            temporal_shift=temporal_shift,
            shift_fold_div=shift_fold_div,
            drop_path=drop_path,
        )
    else:
        branch = feature_branch if isinstance(feature_branch, FeatureBranch) else MODELS.build(dict(feature_branch))
    count = branch.num_stages
    if branch.own_exit is not None:
        _check_foreign(branch, form, is_lean, num_classes)
    _check_numbers(*numbers, count if num_stages is None else num_stages, form['token_mixers'], count)
    depths = _depths(depth_factors, latent_depth, count, is_lean)
    num_stages = count if num_stages is None else num_stages
    read_stages, exit_stages = _reads_and_exits(read_maps, exit_maps, count, is_lean, form['early_exits'])
    if not x2z and read_stages and 1 not in read_stages:
        raise UserError(f'x2z=False with read_maps={tuple(stage - 1 for stage in read_stages)}: nothing is read; leave x2z as it is')
    latent_branch = LatentBranch(
        branch.channels,
        num_latents,
        depths,
        x2z=x2z,
        z2x=form['z2x'],
        dwc=form['dwc'],
        last_z2x=form['last_z2x'],
        token_mixers=form['token_mixers'],
        widening=form['widening'],
        num_stages=count if num_classes is not None else _last_writing_stage(num_stages, form['z2x'], form['last_z2x']),
        width=latent_width,
        read_stages=read_stages,
        max_tokens=form['max_tokens'],
        layouts=branch.layouts,
    )
    branch.drop_stages(num_stages)
    exits = None
    if num_classes is not None:
        exits = ExitHeads(
            branch.channels,
            num_classes,
            form['fkt'],
            branch.head_channels,
            branch.dropout if dropout is None else dropout,
            form['early_exits'],
            joined_dropout=0.2 if dropout is None else dropout,
            probe_channels=probe_channels,
            lift_channels=lift_channels,
            exit_stages=exit_stages,
            widths=latent_branch.widths,
            merges=form['merged_exit'],
            layouts=branch.layouts,
            trunk_exit=branch.own_exit,
        )
    branch.freeze_stages(frozen_stages)
    steps = segment_steps(
        count,
        read_stages,
        exit_stages,
        expands=not is_lean,
        writes=not is_lean or form['z2x'] or form['last_z2x'],
        merges=form['merged_exit'],
    )
    network = DynPerceiver(branch, latent_branch, exits, num_frames, steps, frozen_trunk)
    set_with_cp(network, with_cp)
    return network


MODELS.register_module(name='DynPerceiver', module=build_model)
