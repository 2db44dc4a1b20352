"""The hook that counts and names skipped training samples, in real training runs of a one-weight model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.hooks import Hook
from mmengine.runner import Runner
from one_weight import train_one_weight
from tiny_texts import TinyTextDataset, make_texts

from dynperceiver.data import innermost_datasets


class _Change(Hook):
    """Mends ``1.txt`` and ``2.txt`` and empties ``3.txt`` after the first epoch."""

    priority = 'VERY_LOW'

    def __init__(self, root: Path) -> None:
        self.root = root

    def after_train_epoch(self, runner: Runner) -> None:
        for name, text in (('1.txt', '1'), ('2.txt', '2'), ('3.txt', '')):
            (self.root / name).write_text(text)


def _train(
    root: Path, *texts: str | None, num_workers: int = 0, epochs: int = 2, hooks: Sequence[Hook] = (), **hook: Any
) -> tuple[Path, str, list[float]]:
    """Train on ``list.txt``; returns the report, the log, and the scalar per epoch."""
    dataset = dict(type='TinyTextDataset', **make_texts(root, *texts))
    skipped = dict(type='dynperceiver.SkippedSampleHook', **hook)
    return train_one_weight(root, dataset, skipped, *hooks, num_workers=num_workers, num_epochs=epochs)


@pytest.mark.parametrize('num_workers', [0, 2])
def test_training_reports_skipped_samples(tmp_path: Path, num_workers: int) -> None:
    report, log, counts = _train(tmp_path, '0', '', '2', 'word', '4', None, num_workers=num_workers)
    assert counts == [3, 3]
    for epoch in (1, 2):
        assert f'Epoch {epoch}: 3 of 6 training samples were skipped' in log
    reasons = {'1.txt': 'empty (0 bytes)', '3.txt': 'undecodable', '5.txt': 'missing'}
    assert report.read_text() == ''.join(f'{tmp_path}/{name}\t{reasons[name]}\n' for name in sorted(reasons))
    for name, reason in reasons.items():
        assert log.count(f'\n  {tmp_path}/{name}: {reason}\n') == 2
        # Two workers that meet a file at the same moment may both log it.
        assert 1 <= log.count(f'Skipped in training: {tmp_path}/{name}: {reason}') <= max(1, num_workers)


def test_every_epoch_is_counted_anew(tmp_path: Path) -> None:
    report, _, counts = _train(tmp_path, '0', '', 'word', '3', hooks=[_Change(tmp_path)])
    assert counts == [2, 1]
    assert [line.split('\t')[0] for line in report.read_text().splitlines()] == [f'{tmp_path}/{i}.txt' for i in (1, 2, 3)]


def test_long_lists_are_capped_in_the_log_only(tmp_path: Path) -> None:
    report, log, _ = _train(tmp_path, '0', *[None] * 5, epochs=1, max_shown=2)
    summary = log[log.index('5 of 6 training samples') :]
    assert f'all in {report}' in summary and '... and 3 more' in summary
    assert summary.count(': missing') == 2
    assert len(report.read_text().splitlines()) == 5


def test_nothing_is_said_when_nothing_was_skipped(tmp_path: Path) -> None:
    report, log, counts = _train(tmp_path, '0', '1')
    assert counts == [0, 0]
    assert 'skipped' not in log[log.index('Epoch(train)') :]
    assert not report.exists()


def test_data_sets_inside_wrappers_are_found(tmp_path: Path) -> None:
    first, second = (TinyTextDataset(**make_texts(tmp_path, '0')) for _ in range(2))
    assert innermost_datasets(ConcatDataset([first, second])) == [first, second]
    assert innermost_datasets(RepeatDataset(first, 2)) == [first]
    plain = torch.utils.data.TensorDataset(torch.zeros(1))
    assert innermost_datasets(plain) == [plain]
