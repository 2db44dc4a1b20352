"""Make a resumed training repeat what the uninterrupted one would have done."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..data import innermost_datasets
from ..registry import HOOKS

__all__ = ['ResumableRandomnessHook', 'SeedSample']

FOR_STEPS, FOR_SAMPLES = 1, 2  # last of the numbers that make a seed, so that steps and samples draw from different streams


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
        _seed_everything(self.seed, int(self.epoch), int(results['sample_idx']), FOR_SAMPLES)
        return results


@HOOKS.register_module()
class ResumableRandomnessHook(Hook):
    """Tie all randomness to seed and progress, so that ``--resume`` gives the same losses as an uninterrupted run.

    MMEngine restores weights, optimizer and schedules, but no random state, and persistent loader workers carry theirs from epoch to
    epoch. This hook seeds the main process before every iteration (by rank) for what the model draws, every sample in the workers, and
    the order of the samples by the seed that the checkpoint was trained with.

    Seeding before every epoch would not do: a resumed run starts its loader's workers in another epoch than the uninterrupted run, and
    starting them draws a random number.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self.epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def before_train(self, runner: Runner) -> None:
        """Put :class:`SeedSample` first in the pipeline of the training data, before any worker copies it, and seed the sampler."""
        loader = runner.train_dataloader
        for dataset in innermost_datasets(loader.dataset):
            steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', None)
            if steps is None:
                print_log(
                    f'{type(dataset).__name__} has no pipeline of transforms: a resumed training may draw other augmentations',
                    logger='current',
                )
            elif not any(isinstance(step, SeedSample) for step in steps):
                steps.insert(0, SeedSample(runner.seed, self.epoch))
        # MMEngine builds the sampler before it reads the checkpoint's seed, and all ranks must shuffle alike even with --diff-rank-seed.
        shared_seed = all_gather_object(runner.seed)[0]
        for sampler in (loader.sampler, getattr(loader.batch_sampler, 'sampler', None)):
            if sampler is not None and isinstance(getattr(sampler, 'seed', None), int):
                sampler.seed = shared_seed

    def before_train_epoch(self, runner: Runner) -> None:
        """Tell the workers the epoch."""
        self.epoch.fill_(runner.epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Start the iteration's randomness."""
        _seed_everything(runner.seed, runner.iter, get_rank(), FOR_STEPS)
