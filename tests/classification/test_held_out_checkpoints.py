"""Held-out images against checkpoints whose training held out others: by another seed, share or groups, by an older version, or before
files were added."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config, DictAction
from mmengine.registry import DATASETS

import dynperceiver_cls  # noqa: F401  registers
from dynperceiver.calibration.held_out_data import check_held_out
from dynperceiver.data import split_records
from dynperceiver.launch import UsageError

NUM_IMAGES = 200
WORDS = 'of its 20 samples were trained on, for example '


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images of two classes and ten scenes; nothing decodes them."""
    for number in range(NUM_IMAGES):
        path = tmp_path / 'ab'[number % 2] / f'scene{number // 20}_{number:03}.png'
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def _settings(root: Path, part: str = 'all', **changes: Any) -> dict[str, Any]:
    return dict(type='dynperceiver_cls.ImageFolder', data_root=str(root), part=part, holdout=0.1, **changes)


def _config(root: Path, **changes: Any) -> Config:
    """A config of today that trains on all images unless told otherwise."""
    held_out = dict(dataset=_settings(root, 'holdout', test_mode=True))
    return Config(dict(train_dataloader=dict(dataset={**_settings(root), **changes}), calibration_dataloader=held_out))


def _text(root: Path, wrapper: bool = False, **changes: Any) -> str:
    """What a checkpoint keeps of the config that it was trained by."""
    dataset = {**_settings(root, 'train'), **changes}
    dataset = dict(type='mmengine.RepeatDataset', times=2, dataset=dataset) if wrapper else dataset
    return Config(dict(train_dataloader=dict(dataset=dataset))).pretty_text


def _check(root: Path, text: str | None, records: Any = None, **held_out: Any) -> None:
    cfg = _config(root)
    cfg.calibration_dataloader.dataset.update(held_out)
    check_held_out(cfg, DATASETS.build(cfg.calibration_dataloader.dataset), text, records)


def _refused(root: Path, text: str | None, records: Any = None, **held_out: Any) -> str:
    with pytest.raises(UsageError, match='samples were trained on') as caught:
        _check(root, text, records, **held_out)
    return str(caught.value)


def _records(root: Path, **changes: Any) -> list[dict[str, Any]]:
    """What the hook keeps."""
    return split_records(DATASETS.build({**_settings(root, 'train'), **changes}))


def _options(message: str, after: str) -> dict[str, Any]:
    """Settings on the command line that a message names, as the tools read them."""
    words = shlex.split(message.partition(f'{after} --cfg-options ')[2])
    options: dict[str, Any] = {}
    for word in words:
        if '=' not in word:
            break
        key, _, value = word.rstrip(',;').partition('=')
        options[key.rpartition('.')[2]] = DictAction._parse_iterable(value)
    return options


def test_the_part_that_a_training_left_out_passes(root: Path) -> None:
    _check(root, _text(root, split_seed=0))
    _check(root, _text(root), _records(root))  # a config that names no seed, with a record: of a version that has seeds
    _check(root, _text(root, split_seed=0, wrapper=True))
    _check(root, _text(root, group_pattern='scene[0-9]*'), group_pattern='scene[0-9]*')


@pytest.mark.parametrize('wrapper', [False, True])
def test_a_checkpoint_from_before_there_were_seeds(root: Path, wrapper: bool) -> None:
    """Its config says what a config of today would say, and means the last images of every class."""
    message = _refused(root, _text(root, wrapper=wrapper))
    assert WORDS in message
    assert _options(message, 'calibrate on the part that its training left out, with') == {'split_seed': None}
    assert _options(message, 'or train with') == {'part': 'train'}
    _check(root, _text(root, wrapper=wrapper), split_seed=None)
    assert WORDS in _refused(root, _text(root, split_seed=0), split_seed=None), 'and the other way round'


@pytest.mark.parametrize(
    'changes',
    [dict(split_seed=1), dict(split_seed=None), dict(holdout=0.05, split_seed=0), dict(split_seed=0, group_pattern='scene[0-9]*')],
)
def test_a_checkpoint_of_another_part(root: Path, changes: dict[str, Any]) -> None:
    """What it left out can be had without another training."""
    message = _refused(root, _text(root, **changes), _records(root, **changes))
    options = _options(message, 'calibrate on the part that its training left out, with')
    assert options == {name: value for name, value in changes.items() if name != 'split_seed' or value != 0}
    _check(root, _text(root, **changes), _records(root, **changes), **options)


def test_a_training_for_this_part_is_named_with_all_that_it_needs(root: Path) -> None:
    pattern = 'scene[0-9]*'
    message = _refused(root, None, holdout=0.2, split_seed=3, group_pattern=pattern)
    options = _options(message, 'train with')
    assert options == dict(part='train', holdout=0.2, split_seed=3, group_pattern=pattern)
    cfg = _config(root, **options)
    cfg.calibration_dataloader.dataset.update(holdout=0.2, split_seed=3, group_pattern=pattern)
    check_held_out(cfg, DATASETS.build(cfg.calibration_dataloader.dataset))


def test_files_that_were_added_since_are_warned_of(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, int]] = []
    monkeypatch.setattr('dynperceiver.calibration.held_out_data.print_log', lambda text, logger, level: said.append((text, level)))
    records = _records(root)
    _check(root, _text(root, split_seed=0), records)
    assert not said
    (root / 'a' / 'new.png').touch()
    _check(root, _text(root, split_seed=0), records)
    ((text, level),) = said
    assert '(200 samples then, 201 now, or other names or labels)' in text and level == logging.WARNING


def test_a_checkpoint_that_says_nothing_is_taken_to_be_of_this_config(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr('dynperceiver.calibration.held_out_data.print_log', lambda text, logger, level: said.append(text))
    cfg = _config(root, part='train')
    check_held_out(cfg, DATASETS.build(cfg.calibration_dataloader.dataset))
    (text,) = said
    assert 'keeps no config of its training' in text and 'is taken from this config' in text


def test_other_kinds_of_data_sets_are_left_as_their_config_says(root: Path) -> None:
    """Only data sets that were split get the choice of that time."""
    everything = Config(dict(train_dataloader=dict(dataset=_settings(root, 'all')))).pretty_text
    assert 'part=train' in _refused(root, everything)
    several = dict(type='mmengine.ConcatDataset', datasets=[_settings(root, 'train'), _settings(root, 'train', split_seed=1)])
    text = Config(dict(train_dataloader=dict(dataset=several))).pretty_text
    assert WORDS in _refused(root, text, split_seed=None)
