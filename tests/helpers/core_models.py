"""Networks for tests: narrow ones of every feature branch, and weights that need no random generator of torch."""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynperceiver import DynPerceiver, build_model
from dynperceiver.checkpoint import convert_from_reference, convert_to_reference

GOLDEN = Path(__file__).parent.parent / 'golden'
NARROW_WIDTHS = {
    'resnet18': 0.125,
    'resnet34': 0.125,
    'resnet50': 0.125,
    'mobilenet_v3_large': 0.25,
    **{f'efficientnet_lite{i}': 0.25 for i in range(5)},
}
DEPTHS = (2, 1, 2, 1)
SWITCHES = ('x2z', 'z2x', 'dwc', 'fkt', 'last_z2x', 'token_mixers')


def fill(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Weights that depend on names and shapes only, float64; the golden numbers were made with them."""
    weights = {}
    for key, shape in shapes.items():
        if key.endswith('num_batches_tracked'):
            weights[key] = torch.tensor(0)
            continue
        normal = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(tuple(shape))
        if key.endswith('running_var'):
            value = 1 + 0.1 * np.abs(normal)
        elif key.endswith('running_mean'):
            value = 0.1 * normal
        elif key == 'latent':
            value = 0.5 * normal
        elif key.endswith('relative_position_bias'):
            value = 0.1 * normal
        elif len(shape) >= 2:
            value = normal / np.sqrt(np.prod(shape[1:]))
        elif key.endswith('.bias'):
            value = 0.1 * normal
        else:
            value = 1 + 0.1 * normal
        weights[key] = torch.from_numpy(np.asarray(value))
    return weights


def standard_normal(shape: Sequence[int], seed: int = 2023) -> Tensor:
    """Standard normal numbers, float64; by default the golden numbers' images."""
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(shape)))


def shadow_model(feature_branch: str, **arguments: Any) -> DynPerceiver:
    """A network without memory for its weights: quick to build, good for names, shapes and costs."""
    with torch.device('meta'):
        return build_model(feature_branch, **arguments)


def narrow_shadow(feature_branch: str, **changes: Any) -> DynPerceiver:
    """A shadow of the narrowest network on a feature branch."""
    arguments: dict[str, Any] = {
        'width': NARROW_WIDTHS.get(feature_branch, 1.0),
        'num_latents': 16,
        'depth_factors': (DEPTHS[0] / 3, DEPTHS[1] / 3, DEPTHS[2] / 9, DEPTHS[3] / 3),
        'num_classes': 5,
    }
    return shadow_model(feature_branch, **{**arguments, **changes})


@cache
def _shadow_weights(feature_branch: str, changes: tuple[tuple[str, Any], ...]) -> dict[str, Tensor]:
    return narrow_shadow(feature_branch, **dict(changes)).state_dict()


def shadow_weights(feature_branch: str, **changes: Any) -> dict[str, Tensor]:
    """State dict of the narrowest network on a feature branch, with shapes but without memory."""
    return dict(_shadow_weights(feature_branch, tuple(changes.items())))


def narrow_model(feature_branch: str = 'resnet18', *, dtype: torch.dtype = torch.float64, **changes: Any) -> DynPerceiver:
    """The narrowest network on a feature branch, in eval mode, with weights of :func:`fill`."""
    build = _kept if feature_branch in NARROW_WIDTHS else _filled  # others are too large to keep
    return copy.deepcopy(build(feature_branch, tuple(changes.items()))).to(dtype).eval()


def _filled(feature_branch: str, changes: tuple[tuple[str, Any], ...]) -> DynPerceiver:
    model = narrow_shadow(feature_branch, **dict(changes))
    names = convert_to_reference(model.state_dict())
    weights = convert_from_reference(fill({key: value.shape for key, value in names.items()}))
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(True)


_kept = lru_cache(maxsize=32)(_filled)


def load_golden(name: str) -> dict[str, Any]:
    """The golden numbers of a published variant."""
    golden: dict[str, Any] = json.loads((GOLDEN / f'{name}.json').read_text())
    return golden


@cache
def shared_narrow_model(feature_branch: str) -> DynPerceiver:
    """A narrow network that several tests share; they must not change it."""
    return narrow_model(feature_branch)
