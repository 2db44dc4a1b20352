"""A training whose loss or weights are no longer numbers stops, names iteration and files, and leaves no broken checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_hooks  # noqa: F401  registers PoisonHook
import torch
from mmengine.runner import Runner
from tool_runs import close_workers, quick_runner

import dynperceiver_action  # noqa: F401  registers what configs name


@pytest.fixture
def prepare(tiny_config: Path, tmp_path: Path) -> Iterator[Any]:
    """Function that makes a runner of two epochs of four iterations with given hooks and one that watches."""

    runners: list[Runner] = []

    def make(*hooks: dict[str, Any], **changes: Any) -> tuple[Runner, list[str]]:
        changes.setdefault('train_cfg', dict(by_epoch=True, max_epochs=2))
        runner = quick_runner(tiny_config, tmp_path, [*hooks, dict(type='dynperceiver.NonFiniteLossHook')], **changes)
        last: list[str] = []
        step = runner.model.train_step

        def watched(data: Any, optim_wrapper: Any) -> Any:
            last[:] = [sample.filename for sample in data['data_samples']]
            return step(data, optim_wrapper=optim_wrapper)

        runner.model.train_step = watched
        runners.append(runner)
        return runner, last

    yield make
    for runner in runners:
        close_workers(runner)


def assert_checkpoints(folder: Path, *names: str) -> None:
    assert sorted(path.name for path in folder.glob('*.pth')) == sorted(names)
    for name in names:
        weights = torch.load(folder / name, weights_only=True)['state_dict']
        assert all(bool(torch.isfinite(value).all()) for value in weights.values())


def test_nan_loss_stops_with_iteration_and_files(prepare: Any, tmp_path: Path) -> None:
    runner, batch = prepare(dict(type='PoisonHook', at=6))
    message = r'^loss is not finite at epoch 2, iteration 6 \(learning rate .*\): loss=nan, .*--resume$'
    with pytest.raises(FloatingPointError, match=message) as caught:
        runner.train()
    files = re.search(r'Files of the batch: (.*?)\. Look at', str(caught.value))
    assert files and files[1].split(', ') == batch and len(batch) == 4 and all(Path(name).is_file() for name in batch)
    assert_checkpoints(tmp_path, 'epoch_1.pth')


def test_loss_is_checked_before_the_iterations_own_checkpoint(prepare: Any, tmp_path: Path) -> None:
    saving = dict(checkpoint=dict(type='mmengine.CheckpointHook', interval=1, by_epoch=False))
    runner, _ = prepare(dict(type='PoisonHook', at=3), default_hooks=saving)
    with pytest.raises(FloatingPointError, match=r'^loss is not finite at epoch 1, iteration 3'):
        runner.train()
    assert_checkpoints(tmp_path, 'iter_1.pth', 'iter_2.pth')


def test_weights_that_break_after_the_last_finite_loss_are_not_saved(prepare: Any, tmp_path: Path) -> None:
    """The step of an epoch's last iteration can break the weights, and the loss shows it only in the next epoch."""
    runner, batch = prepare(dict(type='PoisonHook', at=4, when='after', value=float('inf')))
    message = r'^weights are not finite at epoch 1, iteration 4, .*feature_branch.*Files of the batch: '
    with pytest.raises(FloatingPointError, match=message) as caught:
        runner.train()
    assert all(name in str(caught.value) for name in batch)
    assert_checkpoints(tmp_path)


def test_huge_learning_rate_is_named(prepare: Any, tmp_path: Path) -> None:
    optimizer = dict(optimizer=dict(type='SGD', lr=1e25))
    runner, _ = prepare(optim_wrapper=optimizer, param_scheduler=None)
    message = r'^(loss is|weights are) not finite at epoch 1, .*lower the learning rate or clip gradients'
    with pytest.raises(FloatingPointError, match=message):
        runner.train()
    assert_checkpoints(tmp_path)


def test_sound_training_is_left_alone(prepare: Any, tmp_path: Path) -> None:
    runner, _ = prepare(train_cfg=dict(by_epoch=True, max_epochs=1))
    runner.train()
    assert_checkpoints(tmp_path, 'epoch_1.pth')
