"""Convert state dicts between the authors' published names and ours; exact inverses of each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dynperceiver_runtime import UserError

from .key_maps import FEATURE_STAGE_RULES, REGNET_STAGE_RULES, SHARED_RULES, rename

__all__ = ['convert_from_reference', 'convert_to_reference', 'is_reference_state_dict', 'unwrap_checkpoint', 'weights_names']

WRAPPERS = ('model_ema', 'model', 'state_dict')


def weights_names(checkpoint: Mapping[str, Any]) -> tuple[str, ...]:
    """Names under which a checkpoint holds state dicts, the one that is taken first; none for a plain state dict."""
    return tuple(name for name in WRAPPERS if isinstance(checkpoint.get(name), Mapping))


def unwrap_checkpoint(checkpoint: Mapping[str, Any], weights: str | None = None) -> dict[str, Tensor]:
    """The state dict within a checkpoint, without a ``module.`` prefix of distributed training.

    Args:
        checkpoint: A state dict, or a mapping that holds one as ``model_ema``, ``model`` (the authors' files) or ``state_dict``
            (OpenMMLab's). Where several are there the first of these is taken.
        weights: Take this one instead.

    Raises:
        UserError: If ``weights`` is not in the checkpoint, or nothing in it is a state dict.
    """
    if weights is not None:
        if not isinstance(checkpoint.get(weights), Mapping):
            raise UserError(f'the checkpoint has no weights named {weights!r}; it holds: {", ".join(map(str, list(checkpoint)[:10]))}')
        inner = checkpoint[weights]
    else:
        inner = next((checkpoint[name] for name in weights_names(checkpoint)), checkpoint)
    state_dict = {str(key).removeprefix('module.'): value for key, value in inner.items() if isinstance(value, Tensor)}
    if not state_dict:
        raise UserError(
            f'no weights were found among {", ".join(map(str, list(checkpoint)[:10])) or "nothing (it is empty)"}; pass a state dict, or a '
            f'checkpoint with one under {", ".join(WRAPPERS)}'
        )
    return state_dict


def is_reference_state_dict(state_dict: Mapping[str, Any]) -> bool:
    """Whether the names are the authors'."""
    return 'latent' in state_dict and any(key.startswith('cross_att1_x2z.') for key in state_dict)


def _convert(state_dict: Mapping[str, Tensor], to_reference: bool) -> dict[str, Tensor]:
    regnet = any(key.startswith('cnn_body.') or '.f.a.' in key for key in state_dict)
    rules = (*SHARED_RULES, *(REGNET_STAGE_RULES if regnet else FEATURE_STAGE_RULES))
    names = {key: rename(key, rules, to_reference) for key in state_dict}
    strangers = [key for key, name in names.items() if name is None]
    if strangers and all(rename(key, rules, not to_reference) is not None for key in state_dict):
        side = "the authors'" if to_reference else 'ours'
        raise UserError(f'all keys are {side} already, from {strangers[0]} to {strangers[-1]}; there is nothing to convert')
    if strangers:
        side = 'our' if to_reference else "the authors'"
        raise UserError(
            f'{len(strangers)} of {len(names)} keys are not among {side} names: {", ".join(strangers)}. Only a complete Dyn-Perceiver '
            'state dict can be converted; take the keys of other modules out, or strip their prefix, first'
        )
    converted = {name: state_dict[key] for key, name in names.items() if name is not None}
    assert len(converted) == len(state_dict)
    return converted


def convert_from_reference(state_dict: Mapping[str, Any], weights: str | None = None) -> dict[str, Tensor]:
    """Rename the authors' keys to ours.

    Args:
        state_dict: A state dict with the authors' names, or their checkpoint, which holds it under ``model`` or ``model_ema`` (see
            :func:`unwrap_checkpoint`; the averaged weights are taken where both are there).
        weights: Which of the two to take.

    Returns:
        The same tensors under our names, in the same order.

    Raises:
        UserError: If keys do not fit; the message names each of them.
    """
    return _convert(unwrap_checkpoint(state_dict, weights), to_reference=False)


def convert_to_reference(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename our keys to the authors'; the inverse of :func:`convert_from_reference`.

    Raises:
        UserError: If keys do not fit; the message names each of them.
    """
    return _convert(unwrap_checkpoint(state_dict), to_reference=True)
