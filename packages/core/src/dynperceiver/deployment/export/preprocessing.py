"""What pixels go through before they reach a network, as far as a model says."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .cleaning import ExportError

__all__ = ['check_preprocessing', 'read_preprocessing']


def read_preprocessing(model: nn.Module) -> dict[str, Any]:
    """What surrounds a network in its model, for those who serve the network alone.

    Args:
        model: A model of MMEngine's kind, with a ``data_preprocessor``.

    Returns:
        ``mean`` and ``std`` of the three colours (0 to 255), where the data preprocessor normalises; and ``average_views``, where the model
        says how it averages the views of a video.
    """
    average_views = getattr(model, 'average_views', None)
    found: dict[str, Any] = {} if average_views is None else {'average_views': average_views}
    part = getattr(model, 'data_preprocessor', None)
    mean, std, inverse_std = (getattr(part, name, None) for name in ('mean', 'std', 'inverse_std'))
    if not isinstance(std, Tensor) and isinstance(inverse_std, Tensor):
        std = 1 / inverse_std
    if not isinstance(mean, Tensor) or not isinstance(std, Tensor) or mean.numel() != 3 or std.numel() != 3:
        return found
    for name, numbers in (('mean', mean), ('std', std)):
        found[name] = [float(f'{value:.6g}') for value in numbers.flatten().tolist()]
    return found


def check_preprocessing(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """Check what pixels go through before the network.

    Args:
        preprocessing: ``mean`` and ``std`` per channel, where known, and anything else that JSON holds.

    Returns:
        The same, as JSON gives it back.

    Raises:
        ExportError: If ``mean`` or ``std`` are not three numbers, or JSON does not hold it.
    """
    for name in ('mean', 'std'):
        values = preprocessing.get(name)
        if values is not None and (len(values) != 3 or not all(math.isfinite(value) and (name == 'mean' or value > 0) for value in values)):
            raise ExportError(f'preprocessing has {name}={list(values)}; pass a finite number per channel, three, in std above 0')
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(preprocessing), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ExportError(f'preprocessing cannot be kept as JSON ({error}); pass numbers, texts, lists and dicts') from error
    return plain
