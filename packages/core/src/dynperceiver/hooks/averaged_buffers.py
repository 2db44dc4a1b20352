"""Averaged weights whose norms have the same statistics on every process."""

from __future__ import annotations

from mmengine.dist import all_reduce_params
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from ..registry import HOOKS

__all__ = ['SyncAveragedBuffersHook']


@HOOKS.register_module()
class SyncAveragedBuffersHook(Hook):
    """Average the buffers of MMEngine's ``EMAHook`` over the processes after every training epoch.

    ``SyncBuffersHook`` does that for the model that learns, and leaves the averaged copy alone: with ``update_buffers=True`` every
    process would validate with running statistics of its own, and the checkpoint have those of the first. Without ``EMAHook``, or with
    one process, nothing happens.
    """

    def after_train_epoch(self, runner: Runner) -> None:
        """Average them, before the epoch's checkpoint is written and validation begins."""
        for hook in runner.hooks:
            model = getattr(hook, 'ema_model', None) if isinstance(hook, EMAHook) else None
            if model is not None:
                all_reduce_params([buffer for buffer in model.buffers() if buffer.is_floating_point()], op='mean')
