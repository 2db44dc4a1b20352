"""What a user can put right: every such error has one base, and its message says what was expected and what to try."""

from __future__ import annotations

__all__ = ['UserError']


class UserError(ValueError):
    """An input, a file or a setting that its user can put right; command lines show the message alone, without a traceback."""
