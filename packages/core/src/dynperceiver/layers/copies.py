"""Copies of networks for counting, freezing and exporting: without the hooks that others put on the original.

A hook looks on while a network works; it belongs to whoever registered it, may hold what cannot be copied (locks, files, closures), and
expects numbers. So a copy has none, and what runs copies keeps the hooks for all modules (``torch.nn.modules.module``) quiet as well.
"""

from __future__ import annotations

import copy
import threading
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.nn.modules.module as of_all_modules
from torch import Tensor, nn

__all__ = ['computes_weights', 'copy_without_hooks', 'share_hooks', 'without_global_hooks']

Network = TypeVar('Network', bound=nn.Module)

HOOKS = tuple(name for name, value in vars(nn.Module()).items() if 'hook' in name and isinstance(value, dict))
FORWARD_HOOKS = tuple(name for name in HOOKS if name.startswith('_forward'))
GLOBAL_HOOKS = tuple(
    hooks
    for name, hooks in vars(of_all_modules).items()
    if name.startswith('_global') and isinstance(hooks, dict) and not name.endswith(('_with_kwargs', '_always_called'))
)


def computes_weights(hook: object) -> bool:
    """Whether a hook is one of ``torch.nn.utils`` that make a module's weight before it runs: weight norm, spectral norm, pruning.

    These are part of the module, and a copy has them, too.
    """
    return any(kind.__module__.startswith('torch.nn.utils.') for kind in type(hook).__mro__)


def copy_without_hooks(network: Network, replace: Callable[[Tensor], Tensor] | None = None) -> Network:
    """A copy of a network, of which no module has hooks of any kind; the original is not touched.

    Attributes that cannot be copied, such as locks and open files, are shared with the original.

    Args:
        network: Any module.
        replace: Gives the copy's tensor for each parameter and buffer. Default: they are copied.
    """
    memo: dict[int, Any] = {}
    if replace is not None:
        memo.update((id(tensor), replace(tensor)) for tensor in (*network.parameters(), *network.buffers()))
    for module in network.modules():
        for name in HOOKS:
            hooks = vars(module).get(name)
            if hooks is not None:
                memo[id(hooks)] = type(hooks)((key, copy.copy(hook)) for key, hook in hooks.items() if computes_weights(hook))
    try:
        return copy.deepcopy(network, dict(memo))
    except Exception:  # whatever an attribute that cannot be copied raises
        return copy.deepcopy(network, {**memo, **_shared_attributes(network, memo)})


def _shared_attributes(network: nn.Module, memo: dict[int, Any]) -> dict[int, Any]:
    """What the attributes of a network's modules hold that cannot be copied, by identity; results of a computation are copied after all."""
    parts = (*network.modules(), *network.parameters(), *network.buffers())
    known = {**{id(part): part for part in parts}, **memo}
    shared: dict[int, Any] = {}

    def can_be_copied(value: Any) -> bool:
        try:
            copy.deepcopy(value, ChainMap({}, shared, known))  # type: ignore[arg-type]
        except Exception:
            return False
        return True

    def look_at(value: Any) -> None:
        if can_be_copied(value):
            return
        if isinstance(value, Tensor):
            shared[id(value)] = value.detach().clone()
            return
        if isinstance(value, dict | list | tuple | set | frozenset):
            for part in value.values() if isinstance(value, dict) else value:
                look_at(part)
        if not can_be_copied(value):
            shared[id(value)] = value

    own = set(vars(nn.Module()))
    for module in network.modules():
        for name, value in vars(module).items():
            if name not in own:
                look_at(value)
    return shared


def share_hooks(copied: nn.Module, source: nn.Module) -> None:
    """Have the forward hooks on modules of the original, now and later, see the modules of the copy that stand in the same places.

    Args:
        copied: A copy; hooks that make weights are left out, as what is frozen has its weights.
        source: The original.
    """
    originals = dict(source.named_modules())
    for place, module in copied.named_modules():
        if place in originals:
            for name in FORWARD_HOOKS:
                hooks = getattr(originals[place], name)
                if any(map(computes_weights, hooks.values())):
                    hooks = type(hooks)((key, hook) for key, hook in hooks.items() if not computes_weights(hook))
                setattr(module, name, hooks)


_here = threading.local()
_lock = threading.Lock()
_num_quiet = 0


class _HeardElsewhere:
    """A hook for all modules that is not called in threads which run copies."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self.hook = hook

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return None if getattr(_here, 'is_quiet', False) else self.hook(*args, **kwargs)


@contextmanager
def without_global_hooks() -> Iterator[None]:
    """Within this context, hooks that were registered for all modules are not called in this thread; in other threads they are."""
    global _num_quiet
    before = getattr(_here, 'is_quiet', False)
    with _lock:
        _num_quiet += 1
        for hooks in GLOBAL_HOOKS:
            hooks.update((key, _HeardElsewhere(hook)) for key, hook in list(hooks.items()) if not isinstance(hook, _HeardElsewhere))
    _here.is_quiet = True
    try:
        yield
    finally:
        _here.is_quiet = before
        with _lock:
            _num_quiet -= 1
            if not _num_quiet:
                for hooks in GLOBAL_HOOKS:
                    hooks.update((key, hook.hook) for key, hook in list(hooks.items()) if isinstance(hook, _HeardElsewhere))
