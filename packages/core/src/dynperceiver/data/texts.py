"""Words for messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ['in_words']


def in_words(items: Sequence[Any], limit: int = 5) -> str:
    """List items on one line, the first ones only if they are many.

    Args:
        items: What to list.
        limit: How many.
    """
    text = ', '.join(str(item) for item in items[:limit])
    return text + (f' and {len(items) - limit} more' if len(items) > limit else '')
