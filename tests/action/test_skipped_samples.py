"""The hook that counts and names skipped training samples, under the name it first had, in training on videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from one_weight import train_one_weight

import dynperceiver_action
from dynperceiver.hooks import SkippedSampleHook

PIPELINE = [
    dict(type='dynperceiver_action.DecordInit'),
    dict(type='mmaction.SampleFrames', clip_len=1, num_clips=2),
    dict(type='mmaction.DecordDecode'),
    dict(type='mmaction.FormatShape', input_format='NCHW'),
    dict(type='mmaction.PackActionInputs'),
]


def _train(root: Path, num_workers: int) -> tuple[Path, str, list[float]]:
    """Train on ``list.txt``; returns the report, the log, and the scalar per epoch."""
    dataset = dict(
        type='dynperceiver_action.VideoDataset',
        ann_file='list.txt',
        data_root=str(root),
        data_prefix=dict(video=''),
        pipeline=PIPELINE,
        serialize_data=False,
    )
    skipped = dict(type='dynperceiver_action.SkippedSampleHook')
    return train_one_weight(root, dataset, skipped, num_workers=num_workers, default_scope='mmaction')


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
