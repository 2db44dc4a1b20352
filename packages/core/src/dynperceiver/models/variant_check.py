"""Refuse a checkpoint of another variant, whichever way it is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from torch import nn

from dynperceiver_runtime import UserError

from ..structures import CLASSES_KEYS, PARTS

__all__ = ['check_same_variant', 'unused_prefixes']


def _listing(names: Iterable[str], limit: int = 8) -> str:
    names = list(names)
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more


def unused_prefixes(model: Any) -> tuple[str, ...]:
    """What a complete checkpoint of this variant has and a backbone leaves out, because none of its maps depends on it.

    Args:
        model: A :class:`~dynperceiver.models.DynPerceiver`.

    Returns:
        Prefixes of keys; none for a network with exits.
    """
    if model.exits is not None:
        return ()
    steps = chain.from_iterable(parts.steps for parts in model.segment_parts)
    return ('exits.', *(f'{name}.' for step in steps if not model.builds(step) for name in step.modules))


def check_same_variant(model: nn.Module, state_dict: Mapping[str, Any], prefix: str = '') -> None:
    """Check that the tensors of a state dict are those of this model.

    OpenMMLab loads checkpoints with ``strict=False`` and only logs what does not fit, so that a wrong checkpoint would be tested
    with random weights. Exits may be absent from the checkpoint (a backbone), and the model may have none; everything else must
    agree.

    Args:
        model: A :class:`~dynperceiver.models.DynPerceiver` or :class:`~dynperceiver.models.StaticTrunk`.
        state_dict: What is about to be loaded.
        prefix: Prefix of the model's keys in it.

    Raises:
        UserError: If keys or shapes differ; the message names them and says what to do.
    """
    given = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
    given = {key: value for key, value in given.items() if key.startswith(PARTS)}
    if not given:
        names = ', '.join(prefix + part for part in PARTS)
        raise UserError(
            f'the checkpoint holds no weights of this network: no key begins with {names}. Use a checkpoint of this '
            "config; to start from an image checkpoint of this project or of the authors, set init_cfg=dict(type='dynperceiver."
            "ImageCheckpoint', checkpoint=...)"
        )
    own = {key: value for key, value in model.state_dict().items() if key.startswith(PARTS)}
    unused = unused_prefixes(model)
    given = {key: value for key, value in given.items() if not key.startswith(unused)}
    absent = [key for key in own if key not in given]
    # All exits, or those tensors that depend on the number of classes, may have been left out on purpose.
    if not any(key in given for key in CLASSES_KEYS):
        absent = [key for key in absent if not key.startswith('exits.')]
    foreign = [key for key in given if key not in own]
    shapes = [
        f'{key} {tuple(given[key].shape)} (model: {tuple(own[key].shape)})'
        for key in given
        if key in own and given[key].shape != own[key].shape
    ]
    if not (absent or foreign or shapes):
        return
    facts = []
    latent, own_latent = given.get('latent_branch.latent'), own.get('latent_branch.latent')
    if latent is not None and own_latent is not None and latent.shape != own_latent.shape:
        sizes = f'{latent.shape[0]} latent tokens of {latent.shape[-1]} channels, the model {own_latent.shape[0]} of {own_latent.shape[-1]}'
        facts.append(f'it has {sizes}')
    if shapes:
        facts.append(f'of another shape: {_listing(shapes)}')
    if absent:
        facts.append(f'not in the checkpoint: {_listing(absent)}')
    if foreign:
        facts.append(f'not in the model: {_listing(foreign)}')
    only_heads = not absent and not foreign and all(name.startswith('exits.') for name in shapes)
    remedy = (
        "to start from it with other classes, set init_cfg=dict(type='dynperceiver.ImageCheckpoint', checkpoint=...), which leaves out "
        'what depends on the classes'
        if only_heads
        else 'use the config that the checkpoint was trained with, or a checkpoint of this config'
    )
    rule = (
        'The number of classes must be equal'
        if only_heads
        else 'The feature_branch, width, num_latents, depth_factors and the ablation switches must be equal'
    )
    raise UserError(f'the checkpoint is of another variant than the model: {"; ".join(facts)}. {rule}; {remedy}')
