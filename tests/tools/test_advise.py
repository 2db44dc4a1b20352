"""tools/advise.py on tiny digits: what it races, says, keeps and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from classification_runs import make_digits, write_classification_config
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.visualization import Visualizer
from tool_runs import keep_layout, write_quick_config

from dynperceiver_runtime import ExitPolicy

HELD_OUT = """
calibration_dataloader = dict(batch_size=16, num_workers=0, dataset=dict(data_root='{data}'))
"""
TRUNK = """
_base_ = ['{base}']
model = dict(
    backbone=dict(_delete_=True, type='dynperceiver.StaticTrunk', feature_branch='resnet18', width={width}, num_classes={num_classes}),
    loss=dict(exit_weights=(1, )))
"""
QUICK = ('--backend', 'torch', '--budgets', '3', '--batch-sizes', '1', '--rounds', '3')


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Config and checkpoint of a network, and of networks without exits: its CNN, a wider one, one of other classes."""
    folder = tmp_path_factory.mktemp('advise')
    data, held_out = make_digits(folder / 'data'), make_digits(folder / 'held_out', num_train=10, num_val=12)
    plain = write_classification_config(folder / 'tiny.py', data, HELD_OUT.format(data=held_out))
    for name, width, num_classes in (('trunk', 0.125, 10), ('wide', 0.25, 10), ('classes', 0.125, 7)):
        (folder / f'{name}.py').write_text(TRUNK.format(base=plain, width=width, num_classes=num_classes))
    found = {}
    for name in ('network', 'trunk', 'wide', 'classes'):
        config = write_quick_config(folder / 'quick.py', plain) if name == 'network' else folder / f'{name}.py'
        cfg = Config.fromfile(config, format_python_code=False)
        init_default_scope(cfg.default_scope)
        torch.manual_seed(1)
        torch.save({'state_dict': MODELS.build(cfg.model).state_dict()}, folder / f'{name}.pth')
        found[name] = (config, folder / f'{name}.pth')
    return SimpleNamespace(**found, folder=folder)


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


def test_race_against_ones_own_trunk(
    files: Any, call_tool: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, policy = tmp_path / 'all.json', tmp_path / 'policy.json'
    call_tool('advise', *files.network, *QUICK, '--out', out, '--policy', policy, '--batch-sizes', '1', '4', '--sizes', '24')
    text = capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert [(row['engine'], row['batch_size'], row['num_judged']) for row in figures['settings']] == [('torch', 1, 6), ('torch', 4, 6)]
    for row, words in zip(figures['settings'], figures['advice'], strict=True):
        names = [one['name'] for one in row['candidates']]
        assert names[-2:] == ['the network alone', 'the network alone at 24x24'] and names[0].startswith('policy ')
        assert words in text and words.startswith('Deploy ') and 'regret' in row
        chosen = row['candidates'][row['chosen']]
        assert chosen['qualifies'] and ('with early exits' in words) == (chosen['kind'] == 'policy')
        saved = policy.with_stem(f'policy-batch{row["batch_size"]}')
        assert saved.is_file() == (chosen['kind'] == 'policy')
        if saved.is_file():
            assert list(ExitPolicy.load(saved).thresholds) == chosen['thresholds'] and str(saved) in words
        assert row['candidates'][0]['scale'] == 1 or row['batch_size'] == 4
    assert text.rstrip().endswith(figures['advice'][-1]) and 'No trained static networks were given' in text
    assert 'Heads were not trained anew for smaller inputs' in text and '6 samples judged' in text


def test_race_against_given_networks(
    files: Any, call_tool: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'all.json'
    given = ['--static', *files.trunk, '--static', *files.wide]
    call_tool('advise', *files.network, *QUICK, '--out', out, *given, '--sizes', '--judge', '1', '--backend', 'onnxruntime')
    (row,) = json.loads(out.read_text())['settings']
    assert [one['name'] for one in row['candidates'] if one['kind'] != 'policy'] == ['trunk', 'wide']
    assert (row['engine'], row['num_judged']) == ('onnxruntime', 11)
    assert '--static' not in capsys.readouterr().out


def test_a_static_network_sees_its_own_input(files: Any, call_tool: Callable[..., None], tmp_path: Path) -> None:
    out, config = tmp_path / 'all.json', files.folder / 'small.py'
    cfg = Config.fromfile(files.trunk[0], format_python_code=False)
    cfg.test_dataloader.dataset.pipeline.insert(1, dict(type='dynperceiver_cls.Resize', size=16))
    config.write_text(cfg.pretty_text)
    call_tool('advise', *files.network, *QUICK, '--out', out, '--static', config, files.trunk[1], '--sizes', '16', '24', '32')
    (row,) = json.loads(out.read_text())['settings']
    assert [one['name'] for one in row['candidates'] if one['kind'] != 'policy'] == ['small', 'small at 24x24', 'small at 32x32']


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--judge', '0'], r'error: a part of 0.0 of 11 test samples: pass a fraction above 0'),
        (['--max-accuracy-drop', '1'], r'error: max_accuracy_drop=1\.0: it is a fraction'),
        (['--batch-sizes', '0'], r'error: batch_sizes=\(0,\): pass one or more'),
        (['--threads', '0'], r'error: num_threads=0: pass 1 or more'),
        (['--rounds', '0'], r'error: rounds=0: pass a number above 0'),
        (['--budgets', '1'], r'error: --budgets 1: pass 2 or more'),
        (['--sizes', '4'], r'error: --sizes 4: pass 8 or more'),
        (['--cfg-options', 'calibration_dataloader=None'], r'error: .*has no calibration_dataloader'),
        (['--cfg-options', 'test_dataloader=None'], r'error: .*has no test_dataloader, the data that choices are judged on'),
        (['--cfg-options', 'test_dataloader.sampler.shuffle=True'], r'error: .*test_dataloader shuffles its samples'),
        (['--cfg-options', 'test_dataloader.dataset.data_root=nowhere'], r'error: .*nowhere'),
        (['--policy', 'nowhere/policy.json'], r'error: --policy nowhere/policy\.json: its folder is missing'),
    ],
)
def test_mistakes_are_named(files: Any, call_tool: Callable[..., None], flags: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        call_tool('advise', *files.network, *QUICK, '--sizes', *flags)


def test_static_networks_that_do_not_fit_are_named(files: Any, call_tool: Callable[..., None]) -> None:
    for static, message in {
        (files.trunk[0], files.wide[1]): r'error: .*wide\.pth does not fit .*trunk\.py',
        files.classes: r'error: classes tells 7 classes apart and the network 10; pass a static network that was trained',
        (files.trunk[0], files.folder / 'none.pth'): r'error: .*none\.pth',
        (files.folder / 'none.py', files.trunk[1]): r'error: config .*none\.py is missing',
    }.items():
        with pytest.raises(SystemExit, match=message):
            call_tool('advise', *files.network, *QUICK, '--static', *static)


def test_a_static_network_that_saw_the_calibration_samples_is_refused(files: Any, call_tool: Callable[..., None], tmp_path: Path) -> None:
    config = tmp_path / 'seen.py'
    dataset = dict(data_root=str(files.folder / 'held_out'), data_prefix=dict(img_path='val'), class_folder='train')
    config.write_text(f"_base_ = ['{files.trunk[0]}']\ntrain_dataloader = dict(dataset={dataset})\n")
    with pytest.raises(SystemExit, match=r'error: static network .*trunk\.pth: .* of its 12 samples were trained on'):
        call_tool('advise', *files.network, *QUICK, '--static', config, files.trunk[1])
