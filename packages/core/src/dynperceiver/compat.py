"""The repair that lets MMEngine's releases work on today's torch; ``import dynperceiver`` sees to it.

Since torch 2.6 ``torch.load`` reads weights only, and refuses the ``HistoryBuffer`` that MMEngine keeps in each of its
checkpoints, and the ``argparse.Namespace`` that the authors keep in theirs: neither resuming nor testing works. The few harmless
names that these consist of are added to torch's allow-list. Nothing here ever switches the check off.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import pickle
from collections.abc import Callable
from typing import Any

__all__ = ['STATISTICS', 'apply', 'safe_callables']

STATISTICS = ('current', 'max', 'mean', 'min')
"""The statistics methods that MMEngine itself registers on every ``HistoryBuffer``, the only attributes a checkpoint may ask for."""

NUMPY_TYPE_CODES = '?bhilqBHILQefdFDSU'  # every plain data type; objects ('O') stay out


def apply() -> None:
    """Add :func:`safe_callables` to torch's allow-list, where torch (2.4 or newer) has one and MMEngine is installed.

    It imports torch where that was not imported yet; calling it again changes nothing.
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


def _is_installed(package: str) -> bool:
    """Whether a top-level package can be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # it stands in sys.modules without a spec, as no real package does
        return False
