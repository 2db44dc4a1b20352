"""The data set gives what MMDetection's gives, under its wrappers, in workers, and from any project's scope."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path
from typing import Any

import pytest
from mmdet.datasets import CocoDataset as MMDetCocoDataset
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner
from tiny_coco import PIPELINE, SIZE, coco_content, coco_settings, write_image
from torch.utils.data import DataLoader

import dynperceiver_det  # noqa: F401  registers
from dynperceiver.data import Reason, innermost_datasets
from dynperceiver_det.datasets import CocoDataset


def _config(root: Path, **kwargs: Any) -> dict[str, Any]:
    return dict(type='dynperceiver_det.CocoDataset', **coco_settings(root, **kwargs))


@pytest.mark.parametrize(
    'settings',
    [
        {},
        dict(test_mode=True),
        dict(filter_cfg=dict(filter_empty_gt=True, min_size=32)),
        dict(filter_cfg=dict(min_size=33)),
        dict(indices=3),
        dict(indices=[3, 0]),
        dict(metainfo=dict(classes=('cat', 'traffic light')), return_classes=True),
        dict(data_prefix=dict(img='images/', seg='images/')),
    ],
)
@pytest.mark.parametrize('serialize_data', [False, True])
def test_samples_are_those_of_mmdetection(tmp_path: Path, settings: dict[str, Any], serialize_data: bool) -> None:
    content = coco_content()
    del content['annotations'][2:4]  # an image without boxes
    content['annotations'][0]['iscrowd'] = 1
    content['annotations'][1]['segmentation'] = [[1, 1, 9, 9, 1, 9]]
    content['images'][3].update(width=SIZE[0] + 2, height=SIZE[1] + 2)
    settings = coco_settings(tmp_path, content, **settings) | dict(serialize_data=serialize_data, pipeline=[])
    mine, theirs = CocoDataset(**settings), MMDetCocoDataset(**settings)
    assert [mine[i] for i in range(len(mine))] == [theirs[i] for i in range(len(theirs))]
    assert mine.metainfo == theirs.metainfo
    assert (mine.cat_ids, mine.cat2label, mine.cat_img_map) == (theirs.cat_ids, theirs.cat2label, theirs.cat_img_map)


@pytest.mark.parametrize('scope', ['mmdet', 'mmaction', 'mmengine', 'dynperceiver_det'])
def test_from_any_scope(tmp_path: Path, scope: str) -> None:
    with DefaultScope.overwrite_default_scope(scope):
        assert isinstance(DATASETS.build(_config(tmp_path)), CocoDataset)


@pytest.mark.parametrize(
    'wrap',
    [
        lambda inner: dict(type='mmengine.ConcatDataset', datasets=[inner, inner]),
        lambda inner: dict(type='mmdet.ConcatDataset', datasets=[inner, inner]),
        lambda inner: dict(type='mmengine.RepeatDataset', dataset=inner, times=2),
        lambda inner: dict(type='mmengine.ClassBalancedDataset', dataset=inner, oversample_thr=0.9),
        lambda inner: dict(type='mmdet.MultiImageMixDataset', dataset=dict(inner, pipeline=PIPELINE[:2]), pipeline=[MOSAIC, PIPELINE[2]]),
    ],
    ids=['ConcatDataset', 'mmdet.ConcatDataset', 'RepeatDataset', 'ClassBalancedDataset', 'MultiImageMixDataset'],
)
def test_within_wrappers(tmp_path: Path, wrap: Any) -> None:
    config = wrap(_config(tmp_path))
    (tmp_path / 'images' / '2.jpg').write_bytes(b'')
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(config)
    samples = [dataset[i] for i in range(len(dataset))]
    assert all(sample['data_samples'].img_id != 30 for sample in samples)
    inner = innermost_datasets(dataset)
    assert all(isinstance(part, CocoDataset) for part in inner)
    assert all(part.skipped_samples() == [(f'{tmp_path}/images/2.jpg', Reason.EMPTY)] for part in inner)


MOSAIC = dict(type='mmdet.Mosaic', img_scale=(32, 32))


@pytest.mark.parametrize('serialize_data', [False, True])
def test_copies_for_workers(tmp_path: Path, serialize_data: bool) -> None:
    dataset = CocoDataset(**coco_settings(tmp_path) | dict(serialize_data=serialize_data))
    copy = pickle.loads(pickle.dumps(dataset))
    assert [copy.get_data_info(i) for i in range(4)] == [dataset.get_data_info(i) for i in range(4)]
    (tmp_path / 'images' / '0.jpg').write_bytes(b'')
    batches = list(DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=list))
    assert sum(map(len, batches)) == 4
    assert [reason for _, reason in dataset.skipped_samples()] == [Reason.EMPTY]
    subset = dataset.get_subset([1, 2])
    assert subset[0]['data_samples'].img_id == 20 and subset.skipped_samples() == []


def test_mistakes_show_before_the_first_step(tmp_path: Path) -> None:
    """When the data set is made, or with ``lazy_init`` when it is first needed."""
    config = _config(tmp_path, content=coco_content() | dict(categories=[]))
    with pytest.raises(ValueError, match='category_id must be the id of one of categories'):
        DATASETS.build(config)
    loader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True))
    with pytest.raises(ValueError, match='category_id must be the id of one of categories'):
        Runner.build_dataloader(dict(loader, dataset=config))
    lazy = DATASETS.build(dict(config, lazy_init=True))
    with pytest.raises(ValueError, match='category_id must be the id of one of categories'):
        len(lazy)


def test_garbage_is_collected_again_after_loading(tmp_path: Path) -> None:
    assert gc.isenabled()
    CocoDataset(**coco_settings(tmp_path))
    assert gc.isenabled()
    with pytest.raises(ValueError, match='lacks images'):
        CocoDataset(**coco_settings(tmp_path, '{}'))
    assert gc.isenabled()
    gc.disable()
    try:
        CocoDataset(**coco_settings(tmp_path))
        assert not gc.isenabled(), 'who has switched it off wants it off'
    finally:
        gc.enable()


def test_paths_below_folders(tmp_path: Path) -> None:
    content = coco_content()
    content['images'][0]['file_name'] = 'part/a.jpg'
    write_image(tmp_path / 'images' / 'part' / 'a.jpg')
    assert CocoDataset(**coco_settings(tmp_path, content, test_mode=True))[0]['data_samples'].img_path.endswith('images/part/a.jpg')


def test_trouble_with_the_evaluation_is_foretold(tmp_path: Path, warnings_logged: Any) -> None:
    content = coco_content()
    content['annotations'][0]['id'] = 0
    del content['annotations'][3]['iscrowd'], content['annotations'][4]['iscrowd']
    settings = coco_settings(tmp_path, content)
    CocoDataset(**settings)
    assert warnings_logged() == []
    CocoDataset(**settings, test_mode=True)
    [warning] = warnings_logged()
    assert '2 annotations lack "iscrowd", without which CocoMetric fails' in warning and 'annotation id 0 never counts as found' in warning
