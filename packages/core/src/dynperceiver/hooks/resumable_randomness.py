"""Make a resumed training repeat what the uninterrupted one would have done."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch.utils.data import Dataset

from ..registry import HOOKS

__all__ = ['ResumableRandomnessHook', 'SeedSample']


def _seed_everything(*numbers: int) -> None:
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class SeedSample:
    """First step of a pipeline: random augmentation of a sample depends on seed, epoch and sample only.

    Args:
        seed: Seed of the training.
        epoch: Shared counter, shape (1,), which the main process sets and the loader's workers read.
    """

    def __init__(self, seed: int, epoch: torch.Tensor) -> None:
        self.seed = seed
        self.epoch = epoch

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Seed Python, NumPy and PyTorch for this sample."""
        _seed_everything(self.seed, int(self.epoch), int(results['sample_idx']))
        return results


def _innermost(dataset: Dataset[Any]) -> list[Any]:
    if hasattr(dataset, 'datasets'):
        return [inner for part in dataset.datasets for inner in _innermost(part)]
    return _innermost(dataset.dataset) if hasattr(dataset, 'dataset') else [dataset]


@HOOKS.register_module()
class ResumableRandomnessHook(Hook):
    """Tie all randomness of an epoch to seed and epoch, so that ``--resume`` gives the same losses as a run that was not stopped.

    MMEngine restores weights, optimizer and schedules, but no random state, and persistent loader workers carry theirs from epoch to
    epoch. This hook seeds the main process at the start of every epoch (by rank), and every sample in the workers.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self.epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def before_train(self, runner: Runner) -> None:
        """Put :class:`SeedSample` first in the pipeline of the training data, before any worker copies it."""
        for dataset in _innermost(runner.train_dataloader.dataset):
            steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', None)
            if steps is None:
                print_log(
                    f'{type(dataset).__name__} has no pipeline of transforms: a resumed training may augment in another order',
                    logger='current',
                )
            elif not any(isinstance(step, SeedSample) for step in steps):
                steps.insert(0, SeedSample(runner.seed, self.epoch))

    def before_train_epoch(self, runner: Runner) -> None:
        """Start the epoch's randomness."""
        self.epoch.fill_(runner.epoch)
        _seed_everything(runner.seed, runner.epoch, get_rank())
