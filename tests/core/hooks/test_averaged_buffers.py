"""The averaged weights' statistics are averaged over the processes before they are validated and saved."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.hooks import EMAHook
from tool_runs import ROOT
from torch import Tensor, nn

from dynperceiver import hooks
from dynperceiver.hooks import averaged_buffers

AVERAGING = [path for path in sorted((ROOT / 'configs').rglob('*.py')) if 'EMAHook' in path.read_text()]


class Other:
    ema_model = nn.BatchNorm1d(2)


def test_buffers_of_the_average_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    shared: list[tuple[list[Tensor], str]] = []
    monkeypatch.setattr(averaged_buffers, 'all_reduce_params', lambda params, op: shared.append((list(params), op)))
    ema: Any = EMAHook(momentum=0.1)
    ema.ema_model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    waiting = EMAHook(momentum=0.1)  # has made no model yet
    runner: Any = SimpleNamespace(hooks=[Other(), waiting, ema])
    hooks.SyncAveragedBuffersHook().after_train_epoch(runner)
    ((buffers, op),) = shared
    assert op == 'mean'
    assert [id(buffer) for buffer in buffers] == [id(ema.ema_model[1].running_mean), id(ema.ema_model[1].running_var)]


def test_one_process_is_left_as_it_is() -> None:
    ema: Any = EMAHook(momentum=0.1)
    ema.ema_model = nn.BatchNorm1d(2)
    ema.ema_model.running_mean.fill_(3)
    runner: Any = SimpleNamespace(hooks=[ema])
    hooks.SyncAveragedBuffersHook().after_train_epoch(runner)
    assert torch.equal(ema.ema_model.running_mean, torch.full((2,), 3.0))


@pytest.mark.parametrize('path', AVERAGING, ids=lambda path: path.stem)
def test_every_config_that_averages_shares_what_the_average_saw(path: Path) -> None:
    """Without it processes validate with statistics of their own, and save those of the first."""
    assert 'update_buffers=True' in path.read_text() and 'dynperceiver.SyncAveragedBuffersHook' in path.read_text()
