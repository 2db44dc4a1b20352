"""The text of a run's config: saved wherever MMEngine saves it, and never passed through yapf, which would take most of a short run."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS
from mmengine.testing.runner_test_case import ToyDataset, ToyModel

from dynperceiver.calibration.held_out_data import train_dataset_of_text
from dynperceiver.launch import build_runner, parse_train_args, read_config, train_config

CONFIG = """\
notes = dict(text='it\\'s "quoted",\\nin two lines', empty=dict(), none=None, one=(1, ))
table = {'a-b': 1, 3: [dict(deep=-1e-9)], 'flags': [True, [], (None, 'a')]}
model = dict(type='ToyModel')
train_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True), dataset=dict(type='ToyDataset'))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3))
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(type='Visualizer', name='NAME', vis_backends=vis_backends)
"""
FORMS = {
    'plain': CONFIG,
    'with a runner_type': CONFIG + "runner_type = 'Runner'\n",
    'with read_base': 'from mmengine.config import read_base\nwith read_base():\n    from .base import *\ntrain_cfg.max_epochs = 2\n',
}


@pytest.fixture
def formatted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Texts that go through yapf; the toys are registered until the test ends."""
    for registry, toy in ((MODELS, ToyModel), (DATASETS, ToyDataset)):
        monkeypatch.setitem(registry._module_dict, toy.__name__, toy)
    texts: list[str] = []
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda text, **_: (texts.append(text) or text, False))
    return texts


@pytest.mark.parametrize('form', list(FORMS))
def test_a_training_saves_its_config_and_formats_none(form: str, tmp_path: Path, formatted: list[str]) -> None:
    (tmp_path / 'base.py').write_text(CONFIG.replace('NAME', tmp_path.name))
    path = tmp_path / f'{form.replace(" ", "_")}.py'  # loggers have the name of the config, and the second in which they were made
    path.write_text(FORMS[form].replace('NAME', tmp_path.name))
    arguments = [path, '--work-dir', tmp_path / 'work', '--cfg-options', 'notes.more=[1,2]']
    cfg = train_config(parse_train_args([str(argument) for argument in arguments]))
    build_runner(cfg).train()
    assert formatted == []

    (shown,) = (tmp_path / 'work').glob('*/vis_data/config.py')
    texts = [shown.read_text(), (tmp_path / 'work' / path.name).read_text()]
    texts += [torch.load(tmp_path / 'work' / f'epoch_{epoch}.pth')['meta']['cfg'] for epoch in (1, 2)]
    for text in texts:
        assert Config.fromstring(text, '.py').to_dict() == cfg.to_dict()
        assert train_dataset_of_text(text) == dict(type='ToyDataset')
    assert cfg.notes.more == [1, 2] and cfg.notes.text.count('\n') == 1  # what was to be saved is there
    (log,) = (tmp_path / 'work').glob('*/*.log')
    assert texts[0] in log.read_text()
    assert any(b'ToyDataset' in path.read_bytes() for path in (tmp_path / 'work').rglob('events.out.tfevents.*'))


def test_copies_of_the_config_are_not_formatted(tmp_path: Path, formatted: list[str]) -> None:
    """A tool may go on with a copy of what the runner holds."""
    (tmp_path / 'some.py').write_text(CONFIG.replace('NAME', tmp_path.name))
    cfg = read_config(tmp_path / 'some.py')
    cfg.work_dir = str(tmp_path / 'work')
    runner = build_runner(cfg)
    for other in (cfg, runner.cfg, copy.copy(runner.cfg), copy.deepcopy(runner.cfg)):
        assert other.pretty_text == cfg.pretty_text
    assert formatted == []
    assert read_config(tmp_path / 'some.py').pretty_text and len(formatted) == 1  # the counter counts
