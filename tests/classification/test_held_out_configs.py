"""Held-out data of every leaf of configs/classification: what a test sees, of other samples than training and test."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS
from tiny_classification import CLASSIFICATION, LEAVES, load_leaf

import dynperceiver_cls  # noqa: F401  registers
from dynperceiver.calibration.held_out_data import check_held_out, held_out_data_fault, sample_places
from dynperceiver.launch import UsageError

OFFICIAL = [leaf for leaf in LEAVES if leaf.endswith(('cifar10-official', 'cifar100', '_in1k', '_image-folder', '_csv-images'))]
NUM_TRAIN = 40


def _without(settings: Any, *names: str) -> dict[str, Any]:
    return {key: value for key, value in settings.to_dict().items() if key not in names}


@pytest.mark.parametrize('leaf', LEAVES)
def test_held_out_samples_are_prepared_as_for_a_test(leaf: str) -> None:
    cfg = load_leaf(leaf)
    assert held_out_data_fault(cfg) is None
    held_out, test = cfg.calibration_dataloader, cfg.test_dataloader
    assert _without(held_out, 'dataset') == _without(test, 'dataset')
    assert held_out.dataset.pipeline == test.dataset.pipeline == cfg.test_pipeline
    same = ('type', 'num_classes', 'metainfo', 'test_mode')
    assert [held_out.dataset.get(name) for name in same] == [test.dataset.get(name) for name in same]
    names = ('data_root', 'ann_file', 'data_prefix', 'split', 'part')
    where = [tuple(str(cfg[f'{split}_dataloader'].dataset.get(name)) for name in names) for split in ('train', 'test', 'calibration')]
    assert len(set(where)) == 3, 'data of their own'
    assert DATASETS.build(dict(held_out.dataset, lazy_init=True)).test_mode


@pytest.mark.parametrize('leaf', OFFICIAL)
def test_recipes_train_on_everything_until_one_override_holds_a_part_out(leaf: str) -> None:
    cfg = load_leaf(leaf)
    train, held_out = cfg.train_dataloader.dataset, cfg.calibration_dataloader.dataset
    assert train.part == 'all' and held_out.part == 'holdout' and train.holdout == held_out.holdout
    assert _without(held_out, 'part', 'pipeline', 'test_mode') == _without(train, 'part', 'pipeline', 'test_mode')
    cfg.merge_from_dict({'train_dataloader.dataset.part': 'train'})
    DATASETS.build(dict(cfg.train_dataloader.dataset, lazy_init=True))


def _small_folder(tmp_path: Path) -> Config:
    from PIL import Image

    for split, count in (('train', NUM_TRAIN), ('val', 4)):
        for number in range(count):
            path = tmp_path / split / 'ab'[number % 2] / f'{number}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (8, 8)).save(path)
    cfg = load_leaf('dynperceiver-mobilenetv3-0.75_image-folder')
    cfg.merge_from_dict({f'{split}_dataloader.dataset.data_root': str(tmp_path) for split in ('train', 'val', 'test', 'calibration')})
    return cfg


def test_a_checkpoint_of_all_images_is_refused_and_one_of_a_part_is_not(tmp_path: Path) -> None:
    cfg = _small_folder(tmp_path)
    held_out = DATASETS.build(cfg.calibration_dataloader.dataset)
    assert len(held_out) == NUM_TRAIN // 10
    message = r'4 of its 4 samples were trained on.*with --cfg-options train_dataloader\.dataset\.part=train, which'
    with pytest.raises(UsageError, match=message):
        check_held_out(cfg, held_out)
    cfg.merge_from_dict({'train_dataloader.dataset.part': 'train'})
    check_held_out(cfg, held_out)
    assert len(sample_places(DATASETS.build(cfg.train_dataloader.dataset))) == NUM_TRAIN - NUM_TRAIN // 10


def test_readme_names_what_the_tool_asks_for() -> None:
    text = (CLASSIFICATION / 'README.md').read_text()
    section = text.partition('## Held-out data for exit policies')[2].partition('\n## ')[0]
    assert 'train_dataloader.dataset.part=train' in section and 'calibration_dataloader' in section
    assert load_leaf('dynperceiver_demo').held_out_source in section
    assert '2 % of them' in section and load_leaf('dynperceiver-r50x0.5_8xb128_in1k').holdout == 0.02
    flags = set(re.findall(r'--[a-z-]+', section))
    assert flags >= {'--budget-gflops', '--max-accuracy-drop', '--save-logits', '--from-logits'}
