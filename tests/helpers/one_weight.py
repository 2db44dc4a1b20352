"""Training of one weight, for what a training does about its samples, whatever they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn

__all__ = ['train_one_weight']


class _OneWeight(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Sequence[Tensor], data_samples: Any = None, mode: str = 'loss') -> dict[str, Tensor]:
        return dict(loss=self.weight * sum(sample.float().mean() for sample in inputs))


def train_one_weight(
    root: Path, dataset: dict[str, Any], *hooks: Hook | dict[str, Any], num_workers: int = 0, num_epochs: int = 2, **changes: Any
) -> tuple[Path, str, list[float]]:
    """Train on a data set in batches of two; results go into ``root/work``.

    Args:
        root: Folder.
        dataset: The data set's config.
        hooks: Hooks, ``SkippedSampleHook`` among them.
        num_workers: Workers of the loader; they persist from epoch to epoch.
        num_epochs: Epochs.
        changes: Further arguments of the runner.

    Returns:
        Path of the report of skipped samples, the log, and the scalar of their number per epoch.
    """
    work_dir = root / 'work'
    runner = Runner(
        model=_OneWeight(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=2,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            sampler=dict(type='mmengine.DefaultSampler', shuffle=True),
            dataset=dataset,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=num_epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
        default_hooks=dict(checkpoint=None, logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=list(hooks),
        visualizer=dict(type='Visualizer', name=root.name, vis_backends=[dict(type='LocalVisBackend')]),
        experiment_name=root.name,
        **changes,
    )
    runner.train()
    scalars = next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
    counts = [row['train/skipped_samples'] for row in map(json.loads, scalars) if 'train/skipped_samples' in row]
    return work_dir / 'skipped_samples.txt', next(work_dir.glob('*/*.log')).read_text(), counts
