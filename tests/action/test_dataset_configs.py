"""The base configs of the video data sets: scopes, file names for other hooks, and mmaction2's own pipelines."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope

import dynperceiver_action  # noqa: F401  registers
from dynperceiver_action.datasets import RawframeDataset

REPOSITORY = Path(__file__).parents[2]
BASES = sorted(path for pattern in ('*_videos*.py', '*_raw*.py') for path in (REPOSITORY / 'configs/_base_/datasets').glob(pattern))


def _types(node: Any) -> list[str]:
    if isinstance(node, dict):
        return ([node['type']] if 'type' in node else []) + [name for value in node.values() for name in _types(value)]
    return [name for value in node for name in _types(value)] if isinstance(node, list | tuple) else []


@pytest.mark.parametrize('path', BASES, ids=lambda path: path.stem)
def test_base_config(path: Path) -> None:
    config = Config.fromfile(path)
    assert all('.' in name for name in _types(config.to_dict()))
    with DefaultScope.overwrite_default_scope('mmdet'):
        for pipeline in (config.train_pipeline, config.test_pipeline):
            for transform in pipeline:
                TRANSFORMS.build(copy.deepcopy(transform))
        for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
            assert loader.dataset.source
            dataset = DATASETS.build(dict(loader.dataset, lazy_init=True))
            key = 'frame_dir' if isinstance(dataset, RawframeDataset) else 'filename'
            assert key in loader.dataset.pipeline[-1].meta_keys
    assert config.train_dataloader.dataset.get('test_mode', False) is False
    assert config.val_dataloader.dataset.test_mode and config.test_dataloader.dataset.test_mode


def _bare(pipeline: list[dict[str, Any]]) -> list[dict[str, Any]]:
    bare = [{key: value for key, value in step.items() if key not in ('meta_keys', 'io_backend')} for step in pipeline]
    return [dict(step, type=step['type'].split('.')[-1]) for step in bare]


@pytest.mark.parametrize(
    ('ours', 'theirs'),
    [
        ('sthv1_rawframes_8x224', 'recognition/trn/trn_imagenet-pretrained-r50_8xb16-1x1x8-50e_sthv1-rgb.py'),
        ('sthv2_videos_8x224', 'recognition/tsm/tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_sthv2-rgb.py'),
        ('kinetics400_videos_8x224', 'recognition/tsm/tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_kinetics400-rgb.py'),
    ],
)
def test_pipelines_are_those_of_mmaction2(ours: str, theirs: str) -> None:
    import mmaction

    reference = Config.fromfile(Path(mmaction.__file__).parent / '.mim/configs' / theirs)
    config = Config.fromfile(REPOSITORY / f'configs/_base_/datasets/{ours}.py')
    assert _bare(config.train_pipeline) == _bare(reference.train_pipeline)
    assert _bare(config.test_pipeline) == _bare(reference.val_pipeline)
    for loader in ('train_dataloader', 'val_dataloader'):
        mine, other = config[loader].dataset, reference[loader].dataset
        assert f'{mine.data_root}/{mine.ann_file}' == other.ann_file
        assert all(f'{mine.data_root}/{folder}' == other.data_prefix[key] for key, folder in mine.data_prefix.items())
        assert mine.get('filename_tmpl') == other.get('filename_tmpl')
