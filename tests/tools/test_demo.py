"""The parts of tools/demo.py that need no training: the bar, the display, and how a step ends."""

from __future__ import annotations

import importlib.util
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
from mmengine.config import Config
from tool_runs import ROOT

from dynperceiver.launch.runner import leave_config_unformatted

STEP = '2026/01/01 00:00:00 - mmengine - INFO - Epoch(train)  [{epoch}][{step:>2}/60]  lr: 1.0e-03  eta: 0:01:00  loss: 5.0'
VALIDATION = 'INFO - Epoch(val) [1][8/8]    acc/exit1_top1: 0.5125  acc/exit1_top5: 0.9  acc/exit2_top1: 0.7000  acc/exit4_top1: 1.0000'


@pytest.fixture(scope='module')
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location('demo', ROOT / 'tools' / 'demo.py')
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(('done', 'drawn'), [(0, '[....]'), (1, '[#...]'), (2, '[##..]'), (4, '[####]')])
def test_bar(demo: ModuleType, done: int, drawn: str) -> None:
    assert demo.bar(done, 4, width=4) == drawn


def test_display_shows_a_line_per_epoch_where_there_is_no_terminal(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    display = demo.TrainingDisplay()
    display.feed('max_epochs = 10')
    for epoch in (1, 2):
        for step in (20, 40, 60):
            display.feed(STEP.format(epoch=epoch, step=step))
        display.feed(VALIDATION)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert 'epoch 1/10, top-1 per exit: not measured yet, ' in lines[0] and lines[0].endswith(' s left')
    assert 'epoch 2/10, top-1 per exit: 51 / 70 / 100 %, ' in lines[1]


def test_display_overwrites_its_line_on_a_terminal(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    display = demo.TrainingDisplay()
    display.feed('max_epochs = 2')
    for step in (30, 60):
        display.feed(STEP.format(epoch=1, step=step))
    display.feed(STEP.format(epoch=2, step=60))
    written = capsys.readouterr().out
    assert '\n' not in written
    shown = written.split('\r')[1:]
    assert [line.strip().split(' epoch')[0] for line in shown] == [demo.bar(part, 4) for part in (1, 2, 4)]
    assert all(len(later) >= len(earlier.rstrip()) for earlier, later in pairwise(shown))
    assert ' 0 s left' in shown[-1]


def test_time_left_is_in_proportion(demo: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(demo.time, 'time', lambda: next(clock))
    display = demo.TrainingDisplay()
    display.feed('max_epochs = 4')
    display.feed(STEP.format(epoch=1, step=60))
    assert '30 s left' in capsys.readouterr().out


def test_lines_that_say_nothing_about_progress_show_nothing(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    display = demo.TrainingDisplay()
    for line in ('', 'Epoch(val) [1][1/8]', STEP.format(epoch=1, step=20), 'Saving checkpoint at 1 epochs'):
        display.feed(line)  # the number of epochs is not known yet
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize('task', ['action', 'images'])
def test_number_of_epochs_is_found_in_the_logged_config(demo: ModuleType, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As a training logs it; what --cfg-options made of it counts."""
    config, maker, _, _ = demo.TASKS[task]
    assert (ROOT / maker).is_file()
    cfg = Config.fromfile(ROOT / config)
    leave_config_unformatted(cfg)
    for num_epochs in (cfg.train_cfg.max_epochs, 77):
        cfg.train_cfg.max_epochs = num_epochs
        display = demo.TrainingDisplay()
        for line in f'Config:\n{cfg.pretty_text}'.splitlines():
            display.feed(line)
        display.feed(STEP.format(epoch=1, step=60))
        assert f' epoch 1/{num_epochs}, ' in capsys.readouterr().out


def test_step_that_succeeds_leaves_its_output_in_a_log(demo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fed: list[str] = []
    display = demo.TrainingDisplay()
    display.feed = fed.append
    demo.run('[1/1] title', ['-c', 'print("one"); import sys; print("two", file=sys.stderr)'], tmp_path / 'step.log', display)
    assert sorted((tmp_path / 'step.log').read_text().split()) == ['one', 'two'] == sorted(line.strip() for line in fed)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == '[1/1] title' and lines[1].strip().startswith('$ python -c') and lines[-1].strip().startswith('done in')


def test_step_that_fails_ends_the_demo_with_the_end_of_its_output(demo: ModuleType, tmp_path: Path) -> None:
    script = 'for i in range(30): print("line", i)\nraise SystemExit(3)'
    with pytest.raises(SystemExit) as caught:
        demo.run('[1/1] title', ['-c', script], tmp_path / 'step.log')
    message = str(caught.value.code)
    assert 'line 29\n' in message and 'line 5\n' not in message
    assert f'error: this step failed (exit code 3); the whole output is in {tmp_path / "step.log"}' in message


@pytest.mark.parametrize('task', ['action', 'images'])
def test_every_step_gets_the_folder_and_the_options(
    demo: ModuleType, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: dict[str, list[str]] = {}

    def run(title: str, command: list[str], log: Path, display: object = None) -> None:
        commands[command[0]] = command
        (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_8.pth'))
        (tmp_path / 'run').mkdir(exist_ok=True)
        (tmp_path / 'run' / 'result.json').write_text('{}')
        log.write_text('x.png: 50.0% at 1 GMACs\n')

    monkeypatch.setattr(demo, 'run', run)
    arguments = ['--task', task, '--work-dir', str(tmp_path), '--data', 'elsewhere', '--cfg-options', 'max_epochs=3']
    monkeypatch.setattr(sys, 'argv', ['demo.py', *arguments])
    demo.main()
    config, maker, _, _ = demo.TASKS[task]
    assert commands.pop(maker) == [maker, 'elsewhere']
    assert commands.pop('tools/plot.py')[2] == f'{config}={tmp_path / "run" / "result.json"}'
    assert set(commands) == {'tools/train.py', 'tools/test.py'} | ({'tools/vis_exits.py'} if task == 'images' else set())
    roots = [f'{split}_dataloader.dataset.data_root=elsewhere' for split in ('train', 'val', 'test')]
    for command in commands.values():
        assert command[1] == config and command[-5:] == ['--cfg-options', 'max_epochs=3', *roots]
    assert ('gallery.png' in capsys.readouterr().out) == (task == 'images')
