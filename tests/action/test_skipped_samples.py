"""The hook that counts and names skipped training samples, under the name it first had, in training on videos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn

import dynperceiver_action
from dynperceiver.hooks import SkippedSampleHook

PIPELINE = [
    dict(type='dynperceiver_action.DecordInit'),
    dict(type='mmaction.SampleFrames', clip_len=1, num_clips=2),
    dict(type='mmaction.DecordDecode'),
    dict(type='mmaction.FormatShape', input_format='NCHW'),
    dict(type='mmaction.PackActionInputs'),
]


class _OneWeight(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs: list[Tensor], data_samples: Any = None, mode: str = 'loss') -> dict[str, Tensor]:
        return dict(loss=self.weight * sum(clip.float().mean() for clip in inputs))


def _train(root: Path, num_workers: int) -> tuple[Path, str, list[float]]:
    """Train on ``list.txt``; returns the report, the log, and the scalar per epoch."""
    work_dir = root / 'work'
    runner = Runner(
        model=_OneWeight(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=2,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            sampler=dict(type='mmengine.DefaultSampler', shuffle=True),
            dataset=dict(
                type='dynperceiver_action.VideoDataset',
                ann_file='list.txt',
                data_root=str(root),
                data_prefix=dict(video=''),
                pipeline=PIPELINE,
                serialize_data=False,
            ),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
        default_hooks=dict(checkpoint=None, logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=[dict(type='dynperceiver_action.SkippedSampleHook')],
        visualizer=dict(type='Visualizer', name=root.name, vis_backends=[dict(type='LocalVisBackend')]),
        experiment_name=root.name,
        default_scope='mmaction',
    )
    runner.train()
    scalars = next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
    counts = [row['train/skipped_samples'] for row in map(json.loads, scalars) if 'train/skipped_samples' in row]
    return work_dir / 'skipped_samples.txt', next(work_dir.glob('*/*.log')).read_text(), counts


@pytest.mark.parametrize('num_workers', [0, 2])
def test_training_reports_skipped_samples(video_folder: Callable[..., Path], num_workers: int) -> None:
    root = video_folder('ok_1.mp4', 'empty.mp4', 'ok_2.mp4', 'cut.mp4', 'ok_3.mp4', 'missing.mp4')
    report, log, counts = _train(root, num_workers)
    assert counts == [3, 3]
    for epoch in (1, 2):
        assert f'Epoch {epoch}: 3 of 6 training samples were skipped' in log
    reasons = {'empty.mp4': 'empty (0 bytes)', 'cut.mp4': 'truncated', 'missing.mp4': 'missing'}
    assert report.read_text() == ''.join(f'{root}/{name}\t{reasons[name]}\n' for name in sorted(reasons))
    for name, reason in reasons.items():
        assert log.count(f'\n  {root}/{name}: {reason}\n') == 2
        assert log.count(f'Skipped in training: {root}/{name}: {reason}') == 1


def test_the_name_it_first_had() -> None:
    assert dynperceiver_action.hooks.SkippedSampleHook is SkippedSampleHook
