"""Calls whose memory is known, for tests in processes of their own."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable

__all__ = ['make_call']


def make_call(prepared: int, used: int) -> Callable[[], object]:
    """Fill and free ``prepared`` bytes; the call that is returned fills ``used`` bytes."""
    assert len(b'x' * prepared) == prepared
    return functools.partial(operator.mul, b'x', used)
