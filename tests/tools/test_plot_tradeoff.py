"""tools/plot_tradeoff.py on tiny images: what it writes, prints, keeps and refuses."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from classification_runs import make_digits, write_classification_config
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.visualization import Visualizer
from tool_runs import keep_layout, write_quick_config

from dynperceiver.benchmark.tradeoff import TradeoffReport

HELD_OUT = """
calibration_dataloader = dict(batch_size=16, num_workers=0, dataset=dict(data_root='{data}'))
"""
TRUNK = """
_base_ = ['{base}']
model = dict(
    backbone=dict(_delete_=True, type='dynperceiver.StaticTrunk', feature_branch='resnet18', width={width}, num_classes=10),
    loss=dict(exit_weights=(1, )))
"""
QUICK = ('--backend', 'torch', '--budgets', '3', '--batch-sizes', '1', '--rounds', '3', '--crosses', '1', '--cross-samples', '3')


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Config and checkpoint of a network and of its backbone-only baseline, and of a wider trunk."""
    folder = tmp_path_factory.mktemp('tradeoff')
    data, held_out = make_digits(folder / 'data'), make_digits(folder / 'held_out', num_train=10, num_val=12)
    plain = write_classification_config(folder / 'tiny.py', data, HELD_OUT.format(data=held_out))
    (folder / 'trunk.py').write_text(TRUNK.format(base=plain, width=0.125))
    (folder / 'wide.py').write_text(TRUNK.format(base=plain, width=0.25))
    found, quick = {}, write_quick_config(folder / 'quick.py', plain)
    for name, config in {'network': quick, 'trunk': folder / 'trunk.py', 'wide': folder / 'wide.py'}.items():
        cfg = Config.fromfile(config, format_python_code=False)
        init_default_scope(cfg.default_scope)
        torch.manual_seed(1)
        model = MODELS.build(cfg.model)
        torch.save({'state_dict': model.state_dict()}, folder / f'{name}.pth')
        found[name] = (config, folder / f'{name}.pth')
    return SimpleNamespace(**found, num_test=11)


@pytest.fixture(autouse=True)
def _forget_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs within the same second have the same name, by which MMEngine would hand out the log of one whose folder is gone."""
    keep_layout(monkeypatch)
    managers = (MMLogger, MessageHub, Visualizer, DefaultScope)
    before = [manager._instance_dict.copy() for manager in managers]
    yield
    for manager, instances in zip(managers, before, strict=True):
        manager._instance_dict.clear()
        manager._instance_dict.update(instances)


def test_picture_table_and_logits(
    files: Any, call_tool: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ['--held-out-logits', tmp_path / 'held_out.npz', '--test-logits', tmp_path / 'test.npz']
    out = tmp_path / 'out'
    call_tool('plot_tradeoff', *files.network, '--out', out, *QUICK, *kept, '--static', *files.trunk)
    text = capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ['tradeoff.csv', 'tradeoff.png']
    assert (out / 'tradeoff.png').read_bytes().startswith(b'\x89PNG')
    with (out / 'tradeoff.csv').open(newline='') as file:
        lines = list(csv.DictReader(file))
    series = [line['series'] for line in lines]
    counts = {name: series.count(name) for name in set(series)}
    assert counts == {'one exit for all': 4, 'dynamic': 6, 'random exits': 6, 'backbone-only baseline': 1, 'measured': 1}
    assert {line['num_samples'] for line in lines} == {'11', '3'}
    parts = ('exit 4: ', 'backbone-only baseline: ', ' ms measured, ', 'Crossover: faster than the backbone-only baseline ')
    for part in (*parts, 'tradeoff.csv are written'):
        assert part in text
    with np.load(tmp_path / 'test.npz') as arrays:
        right = (arrays['logits_ESK'].argmax(2) == arrays['labels_S']).mean(1)
    assert [float(line['accuracy']) for line in lines[:4]] == pytest.approx(right.tolist())

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError('the network runs again')

    given = {}
    monkeypatch.setattr('dynperceiver.calibration.held_out_logits.collect_logits', refuse)
    summary = TradeoffReport((), 'a caption', 'a summary')
    keep = lambda *args, **options: given.update(options, args=args) or summary  # noqa: E731
    monkeypatch.setattr('dynperceiver.benchmark.tradeoff.measure_tradeoff', keep)
    monkeypatch.setattr('dynperceiver.viz.draw_tradeoff', lambda *args: given.update(drawn=args))
    call_tool('plot_tradeoff', *files.network, '--out', tmp_path / 'a.svg', *QUICK, *kept)
    assert 'a summary\n' in capsys.readouterr().out
    _, loader, held_out, test = given['args']
    assert given['drawn'][1] == tmp_path / 'a.svg' and given['drawn'][3] == 'a caption' and (tmp_path / 'a.csv').is_file()
    assert given['static'] is None and given['num_budgets'] == 3
    assert (held_out.logits_ESK.shape, test.logits_ESK.shape) == ((4, 12, 10), (4, files.num_test, 10))
    assert len(loader.dataset) == files.num_test
    with pytest.raises(SystemExit, match=r'error: .*test\.npz is of other samples'):
        call_tool('plot_tradeoff', *files.network, '--out', out, *QUICK, '--held-out-logits', tmp_path / 'test.npz')


def test_another_trunk_is_refused(files: Any, call_tool: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: the backbone-only baseline's .* parameters have other shapes than"):
        call_tool('plot_tradeoff', *files.network, '--out', tmp_path, *QUICK, '--static', *files.wide)
    assert not list(tmp_path.glob('*.png'))


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--budgets', '1'], r'error: --budgets 1: pass 2 or more'),
        (['--crosses', '-1'], r'error: --crosses -1: pass 0 or more'),
        (['--cross-samples', '0'], r'error: --cross-samples 0: pass 1 or more'),
        (['--cfg-options', 'calibration_dataloader=None'], r'error: .*has no calibration_dataloader'),
    ],
)
def test_wrong_command_line_is_named(files: Any, call_tool: Callable[..., None], tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        call_tool('plot_tradeoff', *files.network, '--out', tmp_path, *flags)


def test_missing_files_are_named(files: Any, call_tool: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r'error: checkpoint .*none\.pth is missing'):
        call_tool('plot_tradeoff', files.network[0], tmp_path / 'none.pth', '--out', tmp_path)
    with pytest.raises(SystemExit, match=r'error: config .*none\.py is missing'):
        call_tool('plot_tradeoff', *files.network, '--out', tmp_path, *QUICK, '--static', tmp_path / 'none.py', files.trunk[1])
