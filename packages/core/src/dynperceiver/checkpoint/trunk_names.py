"""Names under which other libraries keep the tensors of a CNN that is one of our feature branches: one table, read in both directions.

A library's file becomes the state dict of a backbone-only baseline (:class:`~dynperceiver.models.StaticTrunk`). Not in the table, since
names alone would not say that the networks differ: timm's EfficientNet-Lite (two of that name, of which one pads like PyTorch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from dynperceiver_runtime import UserError

from ..feature_branches import (
    FEATURE_BRANCHES,
    EfficientNetLiteVariant,
    FeatureBranch,
    InvertedResidual,
    MobileNetV3Variant,
    RegNetYVariant,
    ResNetVariant,
)
from ..models import StaticTrunk, build_static_trunk
from .key_maps import KeyRule, rename

__all__ = ['TRUNK_NAMES', 'TrunkNames', 'convert_from_trunk', 'convert_to_trunk', 'find_trunk_names']

BRANCH, CLASSIFIER = 'feature_branch.', 'exits.0.classifier.'


@dataclass(frozen=True)
class TrunkNames:
    """A row of the table: how a library names the tensors of a family of CNNs.

    Attributes:
        libraries: Libraries with these names.
        family: Class of our variants of this family.
        markers: Names that together no other row's files have.
        rules: Rules of all tensors of a variant, given its feature branch; the library's names are those of the ``reference``.
        norm_eps: Epsilon of the library's BatchNorms where it is not that of ours. What is added to each variance makes up for it, so
            that the network computes the same.
        convolutions: The library's names of 1x1 convolutions behind the pooling, which are Linear layers here.
    """

    libraries: tuple[str, ...]
    family: type
    markers: tuple[str, ...]
    rules: Callable[[FeatureBranch], Iterable[KeyRule]]
    norm_eps: float | None = None
    convolutions: tuple[str, ...] = ()

    def variants(self) -> dict[str, dict[str, str]]:
        """Our variants of this family, and for each the library's names of the tensors of its static trunk, by ours and in our order."""
        names = {name: _names(self, name) for name, variant in FEATURE_BRANCHES.items() if isinstance(variant, self.family)}
        return {variant: found for variant, found in names.items() if found is not None}


def _inverted_residuals(branch: FeatureBranch) -> Iterator[tuple[str, InvertedResidual]]:
    return ((f'{BRANCH}{name}.', module) for name, module in branch.named_modules() if isinstance(module, InvertedResidual))


def _last_convolution(branch: FeatureBranch) -> str:
    return f'{BRANCH}stages.3.{len(branch.stages[3]) - 1}.'  # type: ignore[arg-type]


def _conv_and_norm(conv: str, norm: str, ours: str) -> Iterator[KeyRule]:
    return (KeyRule(f'{theirs}.', f'{ours}{number}.') for number, theirs in enumerate((conv, norm)))


def _resnet(branch: FeatureBranch) -> Iterator[KeyRule]:
    yield from _conv_and_norm('conv1', 'bn1', f'{BRANCH}stem.')
    yield KeyRule('layer{i}.{j}.', BRANCH + 'stages.{i-1}.{j}.')
    yield KeyRule('fc.', CLASSIFIER)


def _regnet_of_torchvision(branch: FeatureBranch) -> Iterator[KeyRule]:
    yield KeyRule('stem.', f'{BRANCH}stem.')
    yield KeyRule('trunk_output.block{i}.block{i}-{j}.', BRANCH + 'stages.{i-1}.{j}.')
    yield KeyRule('fc.', CLASSIFIER)


def _regnet_of_timm(branch: FeatureBranch) -> Iterator[KeyRule]:
    yield from _conv_and_norm('stem.conv', 'stem.bn', f'{BRANCH}stem.')
    theirs, ours = 's{i}.b{j}.', BRANCH + 'stages.{i-1}.{j-1}.'
    for layer, name in (('conv1', 'f.a.'), ('conv2', 'f.b.'), ('conv3', 'f.c.'), ('downsample', 'proj.')):
        yield from _conv_and_norm(f'{theirs}{layer}.conv', f'{theirs}{layer}.bn', ours + name)
    yield KeyRule(f'{theirs}se.', f'{ours}f.se.')
    yield KeyRule('head.fc.', CLASSIFIER)


def _mobilenet_of_torchvision(branch: FeatureBranch) -> Iterator[KeyRule]:
    blocks = [name for name, _ in _inverted_residuals(branch)]
    for number, ours in enumerate((f'{BRANCH}stem.0.', *blocks, _last_convolution(branch))):
        yield KeyRule(f'features.{number}.', ours)
    yield KeyRule('classifier.', CLASSIFIER)


def _mobilenet_of_timm(branch: FeatureBranch) -> Iterator[KeyRule]:
    depths = (1, 2, 3, 4, 2, 3)  # a stage there begins with a block of stride 2 or of other channels
    places = [f'blocks.{stage}.{number}.' for stage, depth in enumerate(depths) for number in range(depth)]
    yield from _conv_and_norm('conv_stem', 'bn1', f'{BRANCH}stem.0.')
    for theirs, (ours, block) in zip(places, _inverted_residuals(branch), strict=False):
        convs = {'expand': 'conv_pw', 'depthwise': 'conv_dw', 'project': 'conv_pwl' if 'expand' in block.roles else 'conv_pw'}
        num_norms = 0
        for number, role in enumerate(block.roles):
            if role == 'se':
                yield KeyRule(f'{theirs}se.conv_reduce.', f'{ours}block.{number}.fc1.')
                yield KeyRule(f'{theirs}se.conv_expand.', f'{ours}block.{number}.fc2.')
            else:
                num_norms += 1
                yield from _conv_and_norm(f'{theirs}{convs[role]}', f'{theirs}bn{num_norms}', f'{ours}block.{number}.')
    yield from _conv_and_norm('blocks.6.0.conv', 'blocks.6.0.bn1', _last_convolution(branch))
    yield KeyRule('conv_head.', f'{CLASSIFIER}0.')
    yield KeyRule('classifier.', f'{CLASSIFIER}3.')


def _efficientnet_lite(branch: FeatureBranch) -> Iterator[KeyRule]:
    layers = {'expand': ('_expand_conv', '_bn0'), 'depthwise': ('_depthwise_conv', '_bn1'), 'project': ('_project_conv', '_bn2')}
    yield from _conv_and_norm('_conv_stem', '_bn0', f'{BRANCH}stem.')
    for place, (ours, block) in enumerate(_inverted_residuals(branch)):
        for number, role in enumerate(block.roles):
            conv, norm = layers[role]
            yield from _conv_and_norm(f'_blocks.{place}.{conv}', f'_blocks.{place}.{norm}', f'{ours}block.{number}.')
    yield from _conv_and_norm('_conv_head', '_bn1', _last_convolution(branch))
    yield KeyRule('_fc.', CLASSIFIER)


TRUNK_NAMES = (
    TrunkNames(('torchvision', 'timm'), ResNetVariant, ('conv1.weight', 'layer1.0.conv1.weight', 'layer4.0.conv1.weight'), _resnet),
    TrunkNames(('torchvision',), RegNetYVariant, ('stem.0.weight', 'trunk_output.block1.block1-0.f.a.0.weight'), _regnet_of_torchvision),
    # timm's regnety_004, _016 and _032 are ours; its regnety_008 has other channels, and regnety_008_tv is our regnet_y_800mf.
    TrunkNames(('timm',), RegNetYVariant, ('stem.conv.weight', 's1.b1.conv1.conv.weight'), _regnet_of_timm),
    TrunkNames(('torchvision',), MobileNetV3Variant, ('features.0.0.weight', 'features.1.block.0.0.weight'), _mobilenet_of_torchvision),
    # timm's mobilenetv3_large_100. Its tf_mobilenetv3_large_100 has the same names but pads as TensorFlow does: it is not ours.
    TrunkNames(
        ('timm',),
        MobileNetV3Variant,
        ('conv_stem.weight', 'blocks.0.0.conv_dw.weight', 'conv_head.bias'),
        _mobilenet_of_timm,
        norm_eps=1e-5,
        convolutions=('conv_head.weight',),
    ),
    TrunkNames(
        ('efficientnet_lite_pytorch',), EfficientNetLiteVariant, ('_conv_stem.weight', '_conv_head.weight'), _efficientnet_lite
    ),
)


def find_trunk_names(state_dict: Mapping[str, object]) -> TrunkNames | None:
    """The row whose names a state dict has, or ``None`` where it is no other library's CNN."""
    return next((row for row in TRUNK_NAMES if all(marker in state_dict for marker in row.markers)), None)


@cache
def _shadow(variant: str) -> StaticTrunk:
    with torch.device('meta'):
        return build_static_trunk(variant)


@cache
def _names(row: TrunkNames, variant: str) -> dict[str, str] | None:
    """See :meth:`TrunkNames.variants`; ``None`` for a variant of somebody's own that the library has no names for."""
    trunk = _shadow(variant)
    rules = tuple(row.rules(trunk.feature_branch))
    names = {key: rename(key, rules, to_reference=True) for key in trunk.state_dict()}
    found = {key: name for key, name in names.items() if name is not None}
    return found if len(found) == len(names) else None


def _eps_shifts(row: TrunkNames, variant: str) -> dict[str, float]:
    """What to add to each variance under our name, so that the library's network is ours."""
    if row.norm_eps is None:
        return {}
    norms = ((name, module) for name, module in _shadow(variant).named_modules() if isinstance(module, nn.BatchNorm2d))
    return {f'{name}.running_var': row.norm_eps - module.eps for name, module in norms}


def _closest(row: TrunkNames, state_dict: Mapping[str, Tensor], ours: bool) -> tuple[str, dict[str, str]]:
    """The variant that a state dict is of, and the library's names by ours.

    Raises:
        UserError: If its names are no variant's.
    """
    faults: dict[str, tuple[list[str], list[str]]] = {}
    fitting: dict[str, dict[str, str]] = {}
    for variant, names in row.variants().items():
        there = {key: key if ours else name for key, name in names.items()}
        classifier = {name for key, name in there.items() if key.startswith(CLASSIFIER)}
        needed, given = (_needed(keys) - classifier for keys in (there.values(), state_dict))
        faults[variant] = sorted(needed - given), sorted(given - needed)
        if not any(faults[variant]):
            fitting[variant] = names
    for variant, names in fitting.items():  # those of equal depth differ in their channels
        shapes = _shadow(variant).state_dict()
        if all(given.numel() == shapes[key].numel() for key, given in _branch_tensors(names, state_dict, ours)):
            return variant, names
    if fitting:
        return next(iter(fitting.items()))
    variant = min(faults, key=lambda name: sum(map(len, faults[name])))
    facts = ' and '.join(
        f'{len(keys)} {fact} ({", ".join(keys[:4])}{", ..." * (len(keys) > 4)})'
        for keys, fact in zip(faults[variant], ('are missing', 'are unknown'), strict=True)
        if keys
    )
    whose = 'ours' if ours else f'those of {" and ".join(row.libraries)}'
    raise UserError(
        f'the names of the tensors are {whose}, but of none of {", ".join(faults)}; the closest is {variant}, of whose names {facts}. '
        'Pass a complete state dict of one of these networks'
    )


def _needed(names: Iterable[str]) -> set[str]:
    """Without the counters of BatchNorms, which files of older versions of PyTorch lack."""
    return {name for name in names if not name.endswith('num_batches_tracked')}


def _branch_tensors(names: Mapping[str, str], state_dict: Mapping[str, Tensor], ours: bool) -> Iterator[tuple[str, Tensor]]:
    """Tensors of the feature branch with our names."""
    for key, name in names.items():
        given = state_dict.get(key if ours else name)
        if given is not None and key.startswith(BRANCH):
            yield key, given


def convert_from_trunk(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Another library's CNN under our names, those of a backbone-only baseline (:class:`~dynperceiver.models.StaticTrunk`).

    Args:
        state_dict: Under names of :data:`TRUNK_NAMES`, with or without its classifier.

    Raises:
        UserError: If it is of no library of the table, or of a network that is none of our variants.
    """
    row = find_trunk_names(state_dict)
    if row is None:
        known = '; '.join(f'{", ".join(row.variants())} of {" or ".join(row.libraries)}' for row in TRUNK_NAMES)
        first = next(iter(state_dict), 'there are none')
        raise UserError(f'the names of the tensors are those of no CNN that is known here (the first one is {first}); known are {known}')
    variant, names = _closest(row, state_dict, ours=False)
    shifts, own = _eps_shifts(row, variant), _shadow(variant).state_dict()
    converted = {}
    for key, name in names.items():
        if name in state_dict:
            value = state_dict[name]
            if name in row.convolutions:
                value = value.flatten(1)
            converted[key] = value + shifts[key] if key in shifts else value
        elif not key.startswith(CLASSIFIER):  # a counter, which files of older versions of PyTorch lack
            converted[key] = torch.zeros((), dtype=own[key].dtype)
    return converted


def convert_to_trunk(state_dict: Mapping[str, Tensor], library: str) -> dict[str, Tensor]:
    """A backbone-only baseline under another library's names; the inverse of :func:`convert_from_trunk`.

    Args:
        state_dict: Of a :class:`~dynperceiver.models.StaticTrunk`, or of one without its classifier.
        library: A library of :data:`TRUNK_NAMES`.

    Raises:
        UserError: If the library is unknown, has no such network, or the state dict is of a whole Dyn-Perceiver.
    """
    libraries = list(dict.fromkeys(name for row in TRUNK_NAMES for name in row.libraries))
    if library not in libraries:
        raise UserError(f'library={library!r} is unknown; choose one of: {", ".join(libraries)}')
    others = [key for key in state_dict if not key.startswith((BRANCH, CLASSIFIER))]
    if others:
        raise UserError(
            f'the checkpoint has more than a CNN and its classifier, for example {others[0]}; {library} has names for a backbone-only '
            'baseline alone (dynperceiver.StaticTrunk)'
        )
    refusals = []
    for row in (row for row in TRUNK_NAMES if library in row.libraries):
        try:
            variant, names = _closest(row, state_dict, ours=True)
        except UserError as error:
            refusals.append(str(error))
            continue
        shifts = _eps_shifts(row, variant)
        converted = {}
        for key, value in state_dict.items():
            name = names[key]
            value = value - shifts[key] if key in shifts else value
            converted[name] = value[:, :, None, None] if name in row.convolutions else value
        return converted
    raise UserError(f'{library} has no names for this network: ' + '; '.join(refusals))
