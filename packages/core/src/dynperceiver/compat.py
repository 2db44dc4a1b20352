"""Repairs that let OpenMMLab's releases work on today's torch; ``import dynperceiver`` sees to them.

1. Since torch 2.6 ``torch.load`` reads weights only, and refuses the ``HistoryBuffer`` that MMEngine keeps in each of its
   checkpoints, and the ``argparse.Namespace`` that the authors keep in theirs: neither resuming nor testing works. The few harmless
   names that these consist of are added to torch's allow-list. Nothing here ever switches the check off.
2. The wheel of MMAction2 1.2.0 lacks ``mmaction.models.localizers.drn``, which its own code imports. Where it is missing, a
   stand-in takes its place, so that everything but the localizer DRN works.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import pickle
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

__all__ = ['STATISTICS', 'apply', 'mmaction_lacks_drn', 'safe_callables']

STATISTICS = ('current', 'max', 'mean', 'min')
"""The statistics methods that MMEngine itself registers on every ``HistoryBuffer``, the only attributes a checkpoint may ask for."""

DRN_PACKAGE = 'mmaction.models.localizers.drn'
NUMPY_TYPE_CODES = '?bhilqBHILQefdFDSU'  # every plain data type; objects ('O') stay out


def apply() -> None:
    """Put every repair in place that this environment needs now, torch imported or not; calling it again changes nothing."""
    _allow_history_buffers()
    _stand_in_for_drn()


def _allow_history_buffers() -> None:
    """Add :func:`safe_callables` to torch's allow-list, where torch (2.4 or newer) has one and MMEngine is installed.

    Before torch 2.6 loading is not restricted unless asked for, so the older releases without an allow-list need no help.
    """
    if not (_is_installed('torch') and _is_installed('mmengine')):
        return
    from torch import serialization

    if hasattr(serialization, 'add_safe_globals'):
        serialization.add_safe_globals(list(safe_callables()))


@functools.cache
def safe_callables() -> tuple[Callable[..., Any], ...]:
    """Everything that a pickled ``HistoryBuffer`` consists of, under the names that pickles use, and ``argparse.Namespace``.

    Training scripts of papers, the authors' among them, keep their command line as a ``Namespace`` beside the weights; it holds values
    and runs nothing.

    Torch 2.6 also takes pairs of a callable and a name, but torch 2.4 and 2.5 fail on pairs in every later load. All releases read
    ``__module__`` and ``__name__``, so whatever needs another name than its own is wrapped in a function that carries it.

    Returns:
        ``HistoryBuffer``, ``Namespace``, NumPy's array, scalar and data types, and a ``getattr`` that hands out :data:`STATISTICS` only.
    """
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer  # there also while MMEngine's other parts are still being imported

    def history_buffer_getattr(owner: object, name: str) -> object:
        """Stand in for ``builtins.getattr`` while weights are read: the statistics of ``HistoryBuffer``, and nothing else."""
        if owner is not HistoryBuffer or name not in STATISTICS:
            raise pickle.UnpicklingError(
                f'the checkpoint asks for the attribute {name!r} of {owner!r}; only {", ".join(STATISTICS)} of '
                "MMEngine's HistoryBuffer are handed out. Do not load this file unless you trust its source; its weights alone can be "
                "saved again by the one who made it: torch.save({'state_dict': model.state_dict()}, path)"
            )
        return getattr(HistoryBuffer, name)

    rebuild_array, make_scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    assert callable(rebuild_array) and callable(make_scalar)
    data_types = dict.fromkeys(type(np.dtype(code)) for code in NUMPY_TYPE_CODES)
    return (
        HistoryBuffer,
        argparse.Namespace,
        _renamed(history_buffer_getattr, 'builtins.getattr'),
        np.ndarray,
        np.dtype,
        *data_types,
        # numpy 2 moved these two, and reads and writes files of either kind
        *(_renamed(rebuild_array, f'numpy.{core}.multiarray._reconstruct') for core in ('core', '_core')),
        *(_renamed(make_scalar, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')),
    )


def _renamed(function: Callable[..., Any], path: str) -> Callable[..., Any]:
    """A function that does what ``function`` does and says that its dotted name is ``path``."""

    def call(*args: Any) -> Any:
        return function(*args)

    call.__module__, _, call.__name__ = path.rpartition('.')
    call.__qualname__ = call.__name__
    return call


def mmaction_lacks_drn() -> bool:
    """Whether MMAction2 is installed without its part ``mmaction.models.localizers.drn``; imports nothing of it."""
    try:
        spec = importlib.util.find_spec('mmaction')
    except ValueError:  # something that is no package stands in sys.modules under this name
        return False
    folders = [Path(place, *DRN_PACKAGE.split('.')[1:]) for place in (spec and spec.submodule_search_locations) or ()]
    return any(folder.parent.is_dir() for folder in folders) and not any((folder / 'drn.py').is_file() for folder in folders)


def _stand_in_for_drn() -> None:
    """Let ``import mmaction.models`` succeed where the wheel lacks the localizer DRN."""
    if DRN_PACKAGE in sys.modules or not mmaction_lacks_drn():
        return
    module_name = f'{DRN_PACKAGE}.drn'
    package, module = (ModuleType(name, 'Stand-in by dynperceiver.compat.') for name in (DRN_PACKAGE, module_name))
    package.__spec__, module.__spec__ = ModuleSpec(DRN_PACKAGE, None, is_package=True), ModuleSpec(module_name, None)
    vars(package).update(__path__=[], drn=module, DRN=_MissingDRN)
    vars(module).update(DRN=_MissingDRN)
    sys.modules.update({DRN_PACKAGE: package, module_name: module})


class _MissingDRN:
    """What ``DRN`` is where MMAction2's wheel came without it."""

    def __init__(self, *args: object, **kwargs: object) -> NoReturn:
        raise ImportError(
            f'DRN cannot be built: the installed mmaction2 lacks {DRN_PACKAGE}, and dynperceiver put a stand-in there so that all its '
            'other models work. For DRN itself install MMAction2 from its git repository instead of the wheel.'
        )


def _is_installed(package: str) -> bool:
    """Whether a top-level package can be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # it stands in sys.modules without a spec, as no real package does
        return False
