"""The base configs: loaders of a runner, on small data sets of the same form."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope
from mmengine.runner import Runner
from tiny_images import packed_arrays, write_cifar10, write_cifar100, write_folders

import dynperceiver_cls  # noqa: F401  registers

REPOSITORY = Path(__file__).parents[3]
FOLDER = REPOSITORY / 'configs' / '_base_' / 'datasets'
NAMES = sorted(path.stem for path in FOLDER.glob('*.py') if "_type = 'dynperceiver_cls." in path.read_text(encoding='utf-8'))
SIDES = {'imagenet_224': 224, 'cifar10': 32, 'cifar10_jpeg': 64, 'cifar100': 32, 'image_folder': 224, 'csv_images': 224}  # in pixels
SIDES['caltech100'] = 160
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def _types(node: Any) -> list[str]:
    if isinstance(node, dict):
        return ([node['type']] if 'type' in node else []) + [name for value in node.values() for name in _types(value)]
    return [name for value in node for name in _types(value)] if isinstance(node, list | tuple) else []


def _write_data(name: str, root: Path) -> None:
    if name.endswith('_jpeg'):
        labels, classes = [i % 10 for i in range(60)], [f'class{i}' for i in range(10)]
        arrays = {**packed_arrays(labels, 'train', classes), **packed_arrays(labels, 'test', classes)}
        np.savez(root / 'cifar10_jpeg_20k_4k.npz', **arrays)
    elif name == 'cifar10':
        write_cifar10(root)
    elif name == 'cifar100':
        write_cifar100(root)
    elif name == 'caltech100':
        write_folders(root, {'cat': 2, 'dog': 2})
        (root / 'classes.txt').write_text('cat\ndog\n')
        for split in ('train', 'holdout', 'test'):
            (root / f'{split}.csv').write_text('path,label\ncat/0.png,0\ndog/1.png,1\ndog/0.png,1\n')
    elif name == 'csv_images':
        write_folders(root / 'images', {'cat': 2, 'dog': 2})
        for split in ('train', 'val'):
            (root / f'{split}.csv').write_text('path,label\ncat/0.png,cat\ndog/1.png,dog\ndog/0.png,dog\n')
    else:
        for split in ('train', 'val'):
            write_folders(root / split, {'cat': 2, 'dog': 1})


def test_there_are_configs() -> None:
    assert SIDES.keys() == set(NAMES) - {'demo_images'}, 'the demo, whose images have their size already, has a test of its own'


@pytest.mark.parametrize('name', NAMES)
def test_base_config(name: str) -> None:
    config = Config.fromfile(FOLDER / f'{name}.py')
    assert all('.' in type_name for type_name in _types(config.to_dict()))
    for key in LOADERS:
        assert config[key].collate_fn.type == 'dynperceiver_cls.stack_samples' and config[key].persistent_workers
        assert config[key].dataset.get('test_mode', False) == (key != 'train_dataloader') != config[key].sampler.shuffle
        assert config[key].dataset.source
    assert config.train_dataloader.drop_last
    assert config.val_evaluator[0].type == config.test_evaluator[0].type == 'dynperceiver.MultiExitAccuracy'
    with DefaultScope.overwrite_default_scope('mmengine'):
        for pipeline in (config.train_pipeline, config.test_pipeline):
            assert all(repr(TRANSFORMS.build(copy.deepcopy(step))).startswith(step.type.split('.')[1]) for step in pipeline)
        for key in LOADERS:
            DATASETS.build(dict(config[key].dataset, lazy_init=True))


@pytest.mark.parametrize('name', SIDES)
def test_loaders_give_batches(name: str, tmp_path: Path) -> None:
    _write_data(name, tmp_path)
    config = Config.fromfile(FOLDER / f'{name}.py')
    for key in LOADERS:
        settings = config[key]
        settings.dataset.data_root = str(tmp_path)
        settings.update(num_workers=0, persistent_workers=False, batch_size=2)
        if name == 'caltech100':
            settings.dataset.metainfo.classes = str(tmp_path / 'classes.txt')
        if name == 'imagenet_224':
            settings.dataset.num_classes = 2
        batch = next(iter(Runner.build_dataloader(settings, seed=0)))
        assert batch['inputs'].shape == (2, 3, SIDES[name], SIDES[name]) and batch['inputs'].dtype == torch.uint8
        assert all(isinstance(sample.gt_label, int) and 0 <= sample.gt_label < config.num_classes for sample in batch['data_samples'])
    assert len(batch['data_samples'][0].ori_shape) == 2


def test_held_out_images_are_no_training_images(tmp_path: Path) -> None:
    _write_data('cifar10_jpeg', tmp_path)
    config = Config.fromfile(FOLDER / 'cifar10_jpeg.py')
    paths = []
    for key in LOADERS:
        dataset = DATASETS.build(dict(config[key].dataset, data_root=str(tmp_path)))
        paths.append({dataset.get_data_info(i)['img_path'] for i in range(len(dataset))})
    train, val, test = paths
    assert (len(train), len(val), len(test)) == (50, 10, 60)
    assert not train & val and not (train | val) & test


def test_imagenet_pipelines_are_the_recipes() -> None:
    config = Config.fromfile(FOLDER / 'imagenet_224.py')
    steps = [[{**step, 'type': step.type.split('.')[1]} for step in pipeline] for pipeline in (config.train_pipeline, config.test_pipeline)]
    assert steps == [
        [
            dict(type='LoadImage'),
            dict(type='RandomResizedCrop', size=224, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), interpolation='bicubic'),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackInputs'),
        ],
        [
            dict(type='LoadImage'),
            dict(type='Resize', short_edge=256, interpolation='bicubic'),
            dict(type='CenterCrop', size=224),
            dict(type='PackInputs'),
        ],
    ]
    assert config.train_dataloader.batch_size == 128
