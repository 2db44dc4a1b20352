"""Look at where attention goes, at no cost where nobody looks.

Shape suffixes: B rows, H heads, N query tokens, M key tokens.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .attention import Attention

__all__ = ['record_attention']

Key = TypeVar('Key', bound=Hashable)


class _WeightsMode(TorchFunctionMode):
    """Has torch's attention mix the rows of an identity matrix, besides the values: what comes out are the weights themselves."""

    weights_BHNM: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query, key, _ = args
            identity = torch.eye(key.shape[-2], dtype=key.dtype, device=key.device).expand(*key.shape[:-2], -1, -1)
            self.weights_BHNM = func(query, key, identity, **kwargs)
        return func(*args, **kwargs)


@contextmanager
def record_attention(modules: Mapping[Key, nn.Module]) -> Iterator[dict[Key, Tensor]]:
    """Record the attention weights of some modules while the network runs in this context.

    The weights come from the very call that a module makes, with its projections, its position parameter and its scale. The attention of
    these modules is computed twice within the context; other modules, and all of them outside of it, run as ever.

    Args:
        modules: Modules by any name, each an :class:`~dynperceiver.layers.Attention` or one that holds one, such as
            :class:`~dynperceiver.layers.FeatureToLatent`. Modules without any attention are left out, for example the ``nn.Identity`` of
            a part that is switched off.

    Yields:
        A dict that fills as modules run: name to weights of the last call, shape (B, H, N, M), detached; each row sums to 1.

    Raises:
        ValueError: If a module holds several attentions, whose weights one name could not tell apart.
    """
    weights: dict[Key, Tensor] = {}

    def watch(key: Key, attention: Attention) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            with torch.no_grad(), _WeightsMode() as mode:
                attention.forward(*args)
            assert mode.weights_BHNM is not None
            weights[key] = mode.weights_BHNM

        return attention.register_forward_hook(hook)

    with ExitStack() as handles:
        for key, module in modules.items():
            found = [part for part in module.modules() if isinstance(part, Attention)]
            if len(found) > 1:
                raise ValueError(f'{key!r} is a {type(module).__name__} with {len(found)} attentions; pass each of them under its own name')
            if found:
                handles.callback(watch(key, found[0]).remove)
        yield weights
