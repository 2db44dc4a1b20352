"""Errors of MMEngine's runner while it loads a checkpoint name the file."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner, find_latest_checkpoint

from dynperceiver_runtime import FileError, MissingPackageError, UserError

from ..checkpoint import CheckpointError, unreadable_checkpoint, unwrap_checkpoint
from ..registry import HOOKS

__all__ = ['CheckpointFileHook', 'checkpoint_name']


@HOOKS.register_module()
class CheckpointFileHook(Hook):
    """Say which checkpoint file cannot be used, and why.

    MMEngine passes on whatever reading a file raises; for a truncated file or a saved web page that is an error of the zip or pickle
    reader, which does not name the file. It loads a file without weights without an error. ``tools/train.py`` and ``tools/test.py`` always
    add this hook; for other tools, add it to ``custom_hooks``. The file is read once.

    Attributes:
        filename: The file that is being loaded, ``None`` at other times.
    """

    priority = 'HIGHEST'

    def __init__(self) -> None:
        self.filename: str | None = None
        self._was_read = False

    def before_run(self, runner: Runner) -> None:
        """Watch the runner load a checkpoint, which it does next."""
        load = runner.load_checkpoint
        if 'load_checkpoint' in vars(runner):  # watched since an earlier run
            return

        @functools.wraps(load)
        def load_checkpoint(filename: str, *args: Any, **kwargs: Any) -> Any:
            with self._naming(str(filename)):
                return load(filename, *args, **kwargs)

        runner.load_checkpoint = load_checkpoint

    @contextmanager
    def _naming(self, filename: str) -> Iterator[None]:
        self.filename, self._was_read = filename, False
        try:
            yield
        except (CheckpointError, FileError, MissingPackageError, MemoryError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:
            if not self._was_read:
                raise unreadable_checkpoint(filename, error) from error
            if isinstance(error, UserError):
                raise CheckpointError(f'{filename}: {error}') from error
            raise
        finally:
            self.filename = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: Any) -> None:
        """Check that the file has weights.

        Raises:
            CheckpointError: If it has none.
        """
        self._was_read = True
        name = checkpoint_name(runner)
        if not isinstance(checkpoint, Mapping):
            raise CheckpointError(f'{name} holds a {type(checkpoint).__name__}, not a checkpoint; pass a file with a state dict')
        try:
            unwrap_checkpoint(checkpoint)
        except UserError as error:
            raise CheckpointError(f'{name}: {error}') from error


def checkpoint_name(runner: Runner) -> str:
    """What to call the checkpoint that a runner is loading, for messages.

    The hooks of MMEngine are not told. Where :class:`CheckpointFileHook` watches, it knows; elsewhere it is the file that the config asks
    for, or on ``--resume`` without a file the newest in the work dir; unless a script calls ``runner.load_checkpoint`` itself.
    """
    for hook in runner.hooks:
        if isinstance(hook, CheckpointFileHook) and hook.filename is not None:
            return hook.filename
    if runner._has_loaded:
        return 'the checkpoint'
    latest = find_latest_checkpoint(runner.work_dir) if runner._resume and not runner._load_from else None
    return str(runner._load_from or latest or 'the checkpoint')
