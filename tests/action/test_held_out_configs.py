"""Held-out clips of the leaves of configs/action: what a test sees, of other clips than training and test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS
from tool_runs import ROOT

import dynperceiver_action  # noqa: F401  registers
from dynperceiver.calibration.held_out_data import check_held_out, fingerprint_of_samples, held_out_data_fault
from dynperceiver.launch import UsageError

ACTION = ROOT / 'configs' / 'action'
LEAVES = sorted(path.stem for path in ACTION.glob('*.py'))
WITHOUT = ['tsm_dynperceiver_arid6']  # its base says why


def _load(leaf: str) -> Config:
    return Config.fromfile(ACTION / f'{leaf}.py', format_python_code=False)


def _without(settings: Any, *names: str) -> dict[str, Any]:
    return {key: value for key, value in settings.to_dict().items() if key not in names}


@pytest.mark.parametrize('leaf', [leaf for leaf in LEAVES if leaf not in WITHOUT])
def test_held_out_clips_are_prepared_as_for_a_test(leaf: str) -> None:
    cfg = _load(leaf)
    assert held_out_data_fault(cfg) is None
    held_out, test = cfg.calibration_dataloader, cfg.test_dataloader
    assert _without(held_out, 'dataset') == _without(test, 'dataset')
    where, split = ('data_root', 'ann_file', 'data_prefix', 'source'), ('part', 'holdout', 'split_seed')
    assert _without(held_out.dataset, *where, *split) == _without(test.dataset, *where)
    lists = {(loader.dataset.data_root, loader.dataset.ann_file) for loader in (cfg.train_dataloader, test, held_out)}
    if held_out.dataset.get('part'):
        train = cfg.train_dataloader.dataset
        assert train.part == 'all' and held_out.dataset.part == 'holdout'
        assert _without(held_out.dataset, 'part', 'pipeline', 'test_mode') == _without(train, 'part', 'pipeline', 'test_mode')
    else:
        assert len(lists) == 3, 'a list of their own'
    DATASETS.build(dict(held_out.dataset, lazy_init=True))


@pytest.mark.parametrize('leaf', WITHOUT)
def test_leaf_without_says_what_to_add(leaf: str) -> None:
    fault = held_out_data_fault(_load(leaf))
    assert fault is not None and 'no calibration_dataloader' in fault
    assert 'no calibration_dataloader' in (ROOT / 'configs/_base_/datasets/arid6_videos.py').read_text()


def _small_sthv2(tmp_path: Path) -> Config:
    cfg = _load('tsm_dynperceiver_sthv2')
    (tmp_path / 'videos').mkdir()
    for split in ('train', 'test', 'calibration'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(tmp_path)
    return cfg


def test_a_part_of_the_training_list_is_held_out(tmp_path: Path) -> None:
    cfg = _small_sthv2(tmp_path)
    for split, numbers in (('train', range(200)), ('test', range(200, 210))):
        (tmp_path / cfg[f'{split}_dataloader'].dataset.ann_file).write_text(''.join(f'{number}.webm {number % 2}\n' for number in numbers))
    held_out = DATASETS.build(cfg.calibration_dataloader.dataset)
    assert len(held_out) == 4 and sorted(held_out.get_data_info(i)['label'] for i in range(4)) == [0, 0, 1, 1]
    message = r'4 of its 4 samples were trained on.*To put it right, train with --cfg-options train_dataloader\.dataset\.part=train, which'
    with pytest.raises(UsageError, match=message):
        check_held_out(cfg, held_out)
    cfg.train_dataloader.dataset.part = 'train'
    assert len(DATASETS.build(cfg.train_dataloader.dataset)) == 196
    check_held_out(cfg, held_out)


def test_lines_copied_from_the_training_list_are_refused(tmp_path: Path) -> None:
    """They must be moved."""
    cfg = _small_sthv2(tmp_path)
    cfg.calibration_dataloader.dataset.update(ann_file='held_out.txt', part='all')
    lists = {cfg.train_dataloader.dataset.ann_file: 'a b c', cfg.test_dataloader.dataset.ann_file: 'd'}
    for name, clips in {**lists, cfg.calibration_dataloader.dataset.ann_file: 'c e'}.items():
        (tmp_path / name).write_text(''.join(f'{clip}.webm 1\n' for clip in clips.split()))
    held_out = DATASETS.build(cfg.calibration_dataloader.dataset)
    message = r'1 of its 2 samples were trained on, for example videos/c\.webm\..*take them out of the training data'
    with pytest.raises(UsageError, match=message):
        check_held_out(cfg, held_out)
    (tmp_path / cfg.train_dataloader.dataset.ann_file).write_text('a.webm 1\nb.webm 1\n')
    check_held_out(cfg, held_out)
    first = fingerprint_of_samples(held_out)
    (tmp_path / cfg.calibration_dataloader.dataset.ann_file).write_text('c.webm 1\ne.webm 2\n')
    assert fingerprint_of_samples(DATASETS.build(cfg.calibration_dataloader.dataset)) != first, 'labels count'


def test_readme_says_where_held_out_clips_come_from() -> None:
    section = (ACTION / 'README.md').read_text().partition('## Held-out clips for exit policies')[2].partition('\n## ')[0]
    for leaf in ('tsm_dynperceiver', 'tsm_dynperceiver_sthv2', 'tsm_dynperceiver_kinetics400'):
        assert f'{_load(leaf).holdout:.0%} of the training list'.replace('%', ' %') in section
    assert 'train_dataloader.dataset.part=train' in section and 'group_pattern' in section
    assert _load('tsm_dynperceiver_demo').held_out_source in section
