"""A hook that lets tests look into a training; configs load this module by ``custom_imports``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

__all__ = ['RecordRankHook']


@HOOKS.register_module()
class RecordRankHook(Hook):
    """Write into ``folder/RANK.json`` what a rank has seen and what it ended with."""

    priority = 'LOWEST'

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.files: list[str] = []
        self.losses: list[float] = []

    def before_train(self, runner: Runner) -> None:
        self.start = self._weights(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.files += [sample.get('filename') or sample.img_path for sample in data_batch['data_samples']]
        self.losses.append(outputs['loss'].item())
        self.after_step = self._weights(runner)

    def after_train(self, runner: Runner) -> None:
        wrapper = runner.model
        record = dict(
            files=self.files,
            losses=self.losses,
            start=self.start,
            after_step=self.after_step,
            end=self._weights(runner, buffers=True),
            averages=[self._digest(hook.ema_model.state_dict()) for hook in runner.hooks if isinstance(hook, EMAHook)],
            wrapped=is_model_wrapper(wrapper),
            find_unused_parameters=getattr(wrapper, 'find_unused_parameters', None),
        )
        Path(self.folder, f'{get_rank()}.json').write_text(json.dumps(record))

    @staticmethod
    def _weights(runner: Runner, buffers: bool = False) -> str:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        return RecordRankHook._digest(model.state_dict() if buffers else dict(model.named_parameters()))

    @staticmethod
    def _digest(tensors: dict[str, torch.Tensor]) -> str:
        digest = hashlib.sha256()
        for name, tensor in tensors.items():
            digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
        return digest.hexdigest()
