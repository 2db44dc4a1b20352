"""The hook that counts and names skipped training samples, in real training runs of a one-weight model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn

from dynperceiver.hooks import innermost_datasets
from dynperceiver_action.datasets import VideoDataset

PIPELINE = [
    dict(type='dynperceiver_action.DecordInit'),
    dict(type='mmaction.SampleFrames', clip_len=1, num_clips=2),
    dict(type='mmaction.DecordDecode'),
    dict(type='mmaction.FormatShape', input_format='NCHW'),
    dict(type='mmaction.PackActionInputs'),
]


class _Change(Hook):
    """Mends ``cut.mp4`` and ``empty.mp4`` and empties ``ok_2.mp4`` after the first epoch."""

    priority = 'VERY_LOW'

    def __init__(self, root: Path) -> None:
        self.root = root

    def after_train_epoch(self, runner: Runner) -> None:
        for name in ('cut.mp4', 'empty.mp4'):
            (self.root / name).write_bytes((self.root / 'ok_1.mp4').read_bytes())
        (self.root / 'ok_2.mp4').write_bytes(b'')


class _OneWeight(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs: list[Tensor], data_samples: Any = None, mode: str = 'loss') -> dict[str, Tensor]:
        return dict(loss=self.weight * sum(clip.float().mean() for clip in inputs))


def _train(root: Path, num_workers: int, epochs: int = 2, hooks: Sequence[Hook] = (), **hook: Any) -> tuple[Path, str, list[float]]:
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
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
        default_hooks=dict(checkpoint=None, logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=[dict(type='dynperceiver_action.SkippedSampleHook', **hook), *hooks],
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


def test_every_epoch_is_counted_anew(video_folder: Callable[..., Path]) -> None:
    root = video_folder('ok_1.mp4', 'empty.mp4', 'cut.mp4', 'ok_2.mp4')
    report, _, counts = _train(root, num_workers=0, hooks=[_Change(root)])
    assert counts == [2, 1]
    assert [line.split('\t')[0] for line in report.read_text().splitlines()] == [f'{root}/{name}.mp4' for name in ('cut', 'empty', 'ok_2')]


def test_long_lists_are_capped_in_the_log_only(video_folder: Callable[..., Path]) -> None:
    root = video_folder('ok.mp4', *(f'missing_{i}.mp4' for i in range(5)))
    report, log, _ = _train(root, num_workers=0, epochs=1, max_shown=2)
    summary = log[log.index('5 of 6 training samples') :]
    assert f'all in {report}' in summary and '... and 3 more' in summary
    assert summary.count('missing_') == 2
    assert len(report.read_text().splitlines()) == 5


def test_nothing_is_said_when_nothing_was_skipped(video_folder: Callable[..., Path]) -> None:
    report, log, counts = _train(video_folder('ok_1.mp4', 'ok_2.mp4'), num_workers=0)
    assert counts == [0, 0]
    assert 'skipped' not in log[log.index('Epoch(train)') :]
    assert not report.exists()


def test_data_sets_inside_wrappers_are_found(video_folder: Callable[..., Path]) -> None:
    root = video_folder('ok.mp4')
    first, second = (VideoDataset(ann_file='list.txt', data_root=str(root), data_prefix=dict(video=''), pipeline=[]) for _ in range(2))
    assert innermost_datasets(ConcatDataset([first, second])) == [first, second]
    assert innermost_datasets(RepeatDataset(first, 2)) == [first]
    plain = torch.utils.data.TensorDataset(torch.zeros(1))
    assert innermost_datasets(plain) == [plain]
