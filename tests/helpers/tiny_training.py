"""A training of a second that needs the core alone: everything that is random in a real recipe is in it.

Run as a script, it trains in processes that cannot be those of the tests; see :func:`main`.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as torch_dist
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dynperceiver.layers import DropPath

__all__ = ['NUM_SAMPLES', 'STEPS_PER_EPOCH', 'Watch', 'make_runner']

NUM_SAMPLES, BATCH_SIZE, NUM_EPOCHS, NUM_CLASSES = 16, 4, 3, 5
STEPS_PER_EPOCH = NUM_SAMPLES // BATCH_SIZE


class Images(BaseDataset):
    """Images of noise; the pipeline moves, scales and roughens each, drawing from all three generators."""

    def load_data_list(self) -> list[dict[str, Any]]:
        return [dict(number=number) for number in range(NUM_SAMPLES)]


def look(sample: dict[str, Any]) -> dict[str, Any]:
    """The pipeline's step."""
    image_CHW = torch.from_numpy(np.random.default_rng(sample['number']).standard_normal((3, 8, 8), np.float32))
    moved_CHW = image_CHW.roll(random.randrange(8), 2) * float(np.random.uniform(0.5, 2))
    return dict(inputs=moved_CHW + torch.rand(3, 1, 1), data_samples=sample['number'])


class Model(BaseModel):
    """Convolution, norm, dropout and stochastic depth."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
        self.drop_path = DropPath(0.5)
        self.head = nn.Linear(8, NUM_CLASSES)

    def forward(self, inputs: list[Tensor], data_samples: list[int], mode: str = 'loss') -> dict[str, Tensor]:
        feature_BCHW = self.drop_path(self.block(torch.stack(list(inputs))))
        logits_BK = self.head(feature_BCHW.mean((2, 3)))
        return dict(loss=cross_entropy(logits_BK, torch.tensor(data_samples) % NUM_CLASSES))


class Watch(Hook):
    """Keeps what a training has seen, by sample, and what it lost, by iteration from 1.

    Args:
        kill_at: After this iteration the process is killed, as a power cut would do.
    """

    priority = 'LOWEST'

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at = kill_at
        self.losses: dict[int, float] = {}
        self.looks: dict[int, list[bytes]] = {}

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.losses[runner.iter + 1] = outputs['loss'].item()
        for image, number in zip(data_batch['inputs'], data_batch['data_samples'], strict=True):
            self.looks.setdefault(number, []).append(image.numpy().tobytes())
        if runner.iter + 1 == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def make_runner(work_dir: Path, *hooks: Hook | dict[str, Any], num_workers: int = 2, **changes: Any) -> Runner:
    """A runner of three epochs of four iterations, without validation, with an average of the weights.

    Args:
        work_dir: Where results go.
        hooks: Further hooks; for a training that can be resumed one must be ``ResumableRandomnessHook``.
        num_workers: Of the loader; they persist from epoch to epoch.
        changes: Further arguments of the runner.
    """
    loader = dict(batch_size=BATCH_SIZE, num_workers=num_workers, persistent_workers=num_workers > 0)
    average = dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.1, update_buffers=True)
    settings: dict[str, Any] = dict(
        train_dataloader=dict(**loader, dataset=Images(pipeline=[look]), sampler=dict(type='DefaultSampler', shuffle=True)),
        train_cfg=dict(by_epoch=True, max_epochs=NUM_EPOCHS),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9), clip_grad=dict(max_norm=1.0)),
        param_scheduler=dict(type='CosineAnnealingLR', by_epoch=False, T_max=NUM_EPOCHS * STEPS_PER_EPOCH),
        custom_hooks=[*hooks, average, dict(type='SyncBuffersHook'), dict(type='dynperceiver.SyncAveragedBuffersHook')],
        default_hooks=dict(logger=None),
        experiment_name='_'.join(work_dir.parts[-2:]),
        log_level='ERROR',
        randomness=dict(seed=0),
    )
    torch.manual_seed(0)
    return Runner(Model(), str(work_dir), **{**settings, **changes})


def train_as(rank: int, port: str, work_dir: Path) -> None:
    """Be one of two processes of a training; leaves ``RANK.pth`` with what it has seen and what it ended with."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    torch_dist.init_process_group('gloo')
    wrapper = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
    several = dict(launcher='pytorch', cfg=dict(model_wrapper_cfg=wrapper), randomness=dict(seed=0, diff_rank_seed=True))
    watch = Watch()
    runner = make_runner(work_dir, dict(type='dynperceiver.ResumableRandomnessHook'), watch, **several)
    runner.train()
    averages = [hook.ema_model.state_dict() for hook in runner.hooks if hasattr(hook, 'ema_model')]
    kept = dict(losses=watch.losses, looks=watch.looks, weights=runner.model.module.state_dict(), averages=averages)
    torch.save(kept, work_dir / f'{rank}.pth')


def train_until_killed(work_dir: Path) -> None:
    """Train until the process is killed in the middle of epoch 2."""
    make_runner(work_dir, dict(type='dynperceiver.ResumableRandomnessHook'), Watch(kill_at=STEPS_PER_EPOCH + 2)).train()


def fork(job: Callable[[], None]) -> int:
    """Run a job in a process that need not import anything anew; returns its number."""
    child = os.fork()
    if child:
        return child
    try:
        job()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main() -> None:
    """``python tiny_training.py FOLDER PORT``: a training that is ``killed``, and one by ``two`` processes, in folders of these names."""
    folder, port = Path(sys.argv[1]), sys.argv[2]
    jobs = [partial(train_until_killed, folder / 'killed'), *(partial(train_as, rank, port, folder / 'two') for rank in (0, 1))]
    children = [fork(job) for job in jobs]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(codes != [-signal.SIGKILL, 0, 0])


if __name__ == '__main__':
    main()
