"""Stop a training whose loss or weights are no longer numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.runner import Runner

from dynperceiver_runtime import UserError

from ..registry import HOOKS

__all__ = ['NonFiniteError', 'NonFiniteLossHook']

PATH_KEYS = ('filename', 'frame_dir', 'img_path', 'video_id')


class NonFiniteError(UserError, FloatingPointError):
    """A training whose loss or weights are no longer numbers; the message names the files of the batch and says what to try."""


def _file_names(data_batch: Any) -> list[str]:
    samples: Iterable[Any] = data_batch.get('data_samples', ()) if isinstance(data_batch, dict) else ()
    names = []
    for sample in samples:
        name = next((str(getattr(sample, key)) for key in PATH_KEYS if getattr(sample, key, None) is not None), None)
        names.append(name or 'a sample without a file name')
    return names


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Raise as soon as a loss term is NaN or infinite, naming the iteration, the terms and the batch's files.

    It runs before the iteration's checkpoint is written. A step can also leave broken weights behind a loss that was still finite, so
    the weights are checked, too, before they are saved: no checkpoint on disk is broken, and ``--resume`` starts from a sound one.

    Args:
        interval: Check the loss every so many iterations; only 1 always names the batch at fault. Reading a loss from a GPU makes it
            wait.

    Raises:
        UserError: If ``interval`` is less than 1.
    """

    priority = 'VERY_HIGH'

    def __init__(self, interval: int = 1) -> None:
        if interval < 1:
            raise UserError(f'interval={interval}: pass 1 to check every iteration, 2 for every second, and so on')
        self.interval = interval
        self._step = 'before the first iteration'
        self._files: list[str] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None) -> None:
        """Check the losses of an iteration.

        Raises:
            NonFiniteError: If one is not finite.
        """
        self._step, self._files = f'at epoch {runner.epoch + 1}, iteration {runner.iter + 1}', _file_names(data_batch)
        if not self.every_n_train_iters(runner, self.interval):
            return
        bad = {}
        for name, value in (outputs or {}).items():
            number = torch.as_tensor(value, dtype=torch.float32) if not isinstance(value, torch.Tensor) else value
            if 'loss' in name and not bool(torch.isfinite(number).all()):
                bad[name] = float(number.detach().float().mean())
        if bad:
            terms = ', '.join(f'{name}={value}' for name, value in bad.items())
            rates = MessageHub.get_current_instance().log_scalars.get('train/lr')
            rate = f' (learning rate {rates.current():.3g})' if rates is not None else ''
            raise NonFiniteError(f'loss is not finite {self._step}{rate}: {terms}. {self._advice()}')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Check the weights that are about to be saved.

        Raises:
            NonFiniteError: If one is not finite.
        """
        bad = [
            name
            for name, value in checkpoint.get('state_dict', {}).items()
            if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all())
        ]
        if bad:
            more = f' and {len(bad) - 3} more tensors' if len(bad) > 3 else ''
            raise NonFiniteError(
                f'weights are not finite {self._step}, and no checkpoint is written of them: {", ".join(bad[:3])}{more}. {self._advice()}'
            )

    def _advice(self) -> str:
        return (
            f'Files of the batch: {", ".join(self._files) or "unknown"}. Check these files, lower the learning rate or clip gradients '
            '(optim_wrapper.clip_grad.max_norm), then resume from the last checkpoint with --resume'
        )
