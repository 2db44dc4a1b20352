"""A data set of coloured rectangles in COCO format, and this repository's leaves of detection made so narrow that they train in seconds."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tool_runs import ROOT

LEAVES = ROOT / 'configs' / 'detection'
CLASSES = ('red', 'green', 'blue')
COLOURS_BGR = ((30, 30, 220), (30, 200, 30), (220, 60, 30))
HEIGHT, WIDTH = 96, 128
FIGURES = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l', 'AR@1', 'AR@10', 'AR@100', 'AR_s', 'AR_m', 'AR_l')

BACKBONES: dict[str, dict[str, Any]] = {
    'DynPerceiverBackbone': dict(
        feature_branch='resnet18', width=0.25, num_latents=16, depth_factors=(1 / 3, 1 / 3, 1 / 9, 1 / 3), frozen_stages=-1, norm_eval=False
    ),
    'FeatureBranchBackbone': dict(feature_branch='resnet18', width=0.25, frozen_stages=-1, norm_eval=False),
}
FPN, NUM_CLASSES = dict(out_channels=16), len(CLASSES)
TWO_STAGES: dict[str, Any] = dict(
    rpn_head=dict(in_channels=16, feat_channels=16, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=NUM_CLASSES),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=100, max_per_img=100), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=50), rcnn=dict(score_thr=0.001)),
)
MASKS: dict[str, Any] = dict(
    mask_roi_extractor=dict(out_channels=16),
    mask_head=dict(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=NUM_CLASSES),
)
FFN = dict(embed_dims=32, feedforward_channels=64, ffn_drop=0.0)
# What each family's parts behind the backbone become; a detector that is new in configs/detection gets a row here.
DETECTORS: dict[str, dict[str, Any]] = {
    'RetinaNet': dict(
        neck=FPN,
        bbox_head=dict(
            num_classes=NUM_CLASSES, in_channels=16, feat_channels=16, stacked_convs=1, anchor_generator=dict(octave_base_scale=3)
        ),
        test_cfg=dict(score_thr=0.001),
    ),
    'FasterRCNN': dict(TWO_STAGES, neck=FPN),
    'MaskRCNN': dict(TWO_STAGES, neck=FPN, roi_head=TWO_STAGES['roi_head'] | MASKS),
    'DeformableDETR': dict(
        num_queries=20,
        neck=dict(out_channels=32, norm_cfg=dict(num_groups=8)),
        encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=dict(embed_dims=32, dropout=0.0), ffn_cfg=FFN)),
        decoder=dict(
            num_layers=2,
            layer_cfg=dict(
                self_attn_cfg=dict(embed_dims=32, dropout=0.0), cross_attn_cfg=dict(embed_dims=32, dropout=0.0), ffn_cfg=FFN
            ),
        ),
        positional_encoding=dict(num_feats=16),
        bbox_head=dict(num_classes=NUM_CLASSES, embed_dims=32),
    ),
}

# The leaf's own pipelines, data set class, sampler, evaluator and hooks stay; only their files and sizes change.
CONFIG_TEXT = """\
_base_ = ['{leaf}']
data_root = '{data}/'
metainfo = dict(classes={classes}, palette={palette})
small = dict(scale=({width}, {height}), crop_size=({height}, {width}))
train_pipeline = [dict(step, **{{key: small[key] for key in small if key in step}}) for step in _base_.train_pipeline]
test_pipeline = [dict(step, **{{key: small[key] for key in small if key in step}}) for step in _base_.test_pipeline]
model = {model}
files = dict(data_root=data_root, data_prefix=dict(img='images/'), metainfo=metainfo)
train_dataloader = dict(batch_size=2, num_workers=1, dataset=dict(ann_file='train.json', pipeline=train_pipeline, **files))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(ann_file='val.json', pipeline=test_pipeline, **files))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=2, val_interval=1)
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.004), clip_grad=dict(max_norm=10))
param_scheduler = [dict(type='LinearLR', start_factor=0.2, by_epoch=False, begin=0, end=6)]
default_hooks = dict(logger=dict(interval=1))
log_processor = dict(window_size=1)
input_shape = ({height}, {width})
work_dir = '{work_dir}'
"""


def _photo(rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, list[int]]]]:
    """One photo and its objects, each a class number and a box (x, y, width, height): a larger and a smaller one."""
    image = rng.integers(90, 130, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    objects = []
    for left, low, high in ((4, 36, 56), (70, 22, 30)):
        number, width, height = int(rng.integers(len(CLASSES))), *map(int, rng.integers(low, high, 2))
        x, y = left + int(rng.integers(0, 8)), int(rng.integers(2, HEIGHT - height - 2))
        image[y : y + height, x : x + width] = COLOURS_BGR[number]
        objects.append((number, [x, y, width, height]))
    return image, objects


def make_photos(folder: Path, num_train: int = 8, num_val: int = 5) -> Path:
    """Write JPEG files and ``train.json`` and ``val.json``, with a polygon for every rectangle; returns their folder."""
    rng = np.random.default_rng(0)
    (folder / 'images').mkdir(parents=True)
    for split, num_photos in (('train', num_train), ('val', num_val)):
        images, annotations = [], []
        for image_id in range(1, num_photos + 1):
            name = f'{split}_{image_id}.jpg'
            image, objects = _photo(rng)
            assert cv2.imwrite(str(folder / 'images' / name), image)
            images.append(dict(id=image_id, file_name=name, width=WIDTH, height=HEIGHT))
            for number, (x, y, width, height) in objects:
                polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
                facts = dict(bbox=[x, y, width, height], area=width * height, segmentation=[polygon], iscrowd=0)
                annotations.append(dict(id=len(annotations) + 1, image_id=image_id, category_id=number + 1, **facts))
        categories = [dict(id=number, name=name) for number, name in enumerate(CLASSES, 1)]
        (folder / f'{split}.json').write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return folder


def families() -> dict[str, Path]:
    """One leaf per detector: the first on a Dyn-Perceiver of those whose file names begin alike, as 'faster-rcnn_...'."""
    leaves = sorted(LEAVES.glob('*_dynperceiver-*_coco.py'), reverse=True)
    return {leaf.stem.partition('_')[0]: leaf for leaf in leaves}


def narrow(model: Any) -> dict[str, Any]:
    """What to override in the model of a leaf: a narrow network, and heads for three classes."""
    return dict(
        backbone=BACKBONES[model['backbone']['type'].rpartition('.')[2]],
        **DETECTORS[model['detector'].rpartition('.')[2]],
    )


@cache
def _read_model(leaf: Path) -> Any:
    from mmengine.config import Config

    return Config.fromfile(leaf).model


def narrow_model(leaf: Path, **backbone: Any) -> Any:
    """Model of a leaf, narrowed; ``backbone`` overrides further arguments of the backbone."""
    from mmengine.config import Config

    cfg = Config(dict(model=copy.deepcopy(_read_model(leaf))))
    cfg.merge_from_dict(dict(model=narrow(cfg.model)))
    cfg.model.backbone.update(backbone)
    return cfg.model


def write_detection_config(path: Path, leaf: Path, data: Path, more: str = '') -> Path:
    """Write a config that inherits from a leaf by absolute path; results go beside it, into ``NAME_work``."""
    words = dict(leaf=leaf, data=data, work_dir=path.parent / f'{path.stem}_work', classes=CLASSES, height=HEIGHT, width=WIDTH)
    text = CONFIG_TEXT.format(**words, palette=[colour[::-1] for colour in COLOURS_BGR], model=narrow(_read_model(leaf)))
    path.write_text(text + more)
    return path


def load_batch(data: Path, num_photos: int = 4, with_mask: bool = False) -> dict[str, Any]:
    """The first photos of the training split as a data loader hands them to a model."""
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import DATASETS

    pipeline: Sequence[dict[str, Any]] = [
        dict(type='LoadImageFromFile'),
        dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=with_mask),
        dict(type='mmdet.PackDetInputs'),
    ]
    files = dict(data_root=str(data), ann_file='train.json', data_prefix=dict(img='images/'), metainfo=dict(classes=CLASSES))
    dataset = DATASETS.build(dict(type='dynperceiver_det.CocoDataset', pipeline=pipeline, **files))
    batch: dict[str, Any] = pseudo_collate([dataset[index] for index in range(num_photos)])
    return batch
