"""What is wrong with checkpoints."""

from __future__ import annotations

from dynperceiver_runtime import UserError

__all__ = ['CheckpointError']


class CheckpointError(UserError):
    """A checkpoint file that cannot be used; the message names the file and says what to try."""
