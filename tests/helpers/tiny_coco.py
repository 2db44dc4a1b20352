"""A small data set in COCO format, with real JPEG files, to be spoilt by tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

__all__ = ['CLASSES', 'PIPELINE', 'SIZE', 'coco_content', 'coco_settings', 'write_image']

CLASSES = ('cat', 'dog', 'traffic light')
SIZE = (48, 32)  # width and height of every image, in pixels
PIPELINE = [
    dict(type='LoadImageFromFile'),  # MMCV's, in MMEngine's own registry
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape')),
]


def coco_content(num_images: int = 4) -> dict[str, Any]:
    """What the annotation file holds: image ids 10, 20, ..., two boxes on each, annotation ids from 1, category ids 1, 2 and 5."""
    images = [dict(id=10 * (i + 1), file_name=f'{i}.jpg', width=SIZE[0], height=SIZE[1]) for i in range(num_images)]
    boxes = [[2.5, 3.0, 10.0, 12.0], [20, 10, 28.4, 22.3]]  # the second sticks out by less than a pixel, as in COCO
    annotations = [
        dict(id=2 * i + j + 1, image_id=image['id'], category_id=(1, 2, 5)[(i + j) % 3], bbox=list(box), area=box[2] * box[3], iscrowd=0)
        for i, image in enumerate(images)
        for j, box in enumerate(boxes)
    ]
    categories = [dict(id=i, name=name) for i, name in zip((1, 2, 5), CLASSES, strict=True)]
    return dict(images=images, annotations=annotations, categories=categories)


def write_image(path: Path, size: tuple[int, int] = SIZE) -> None:
    """Write noise as a JPEG file of a width and a height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    assert cv2.imwrite(str(path), noise)


def coco_settings(root: Path, content: Any = None, **kwargs: Any) -> dict[str, Any]:
    """Write the files; returns the arguments of the data set."""
    content = coco_content() if content is None else content
    (root / 'train.json').write_text(content if isinstance(content, str) else json.dumps(content), encoding='utf-8')
    for image in coco_content()['images']:
        if not (root / 'images' / image['file_name']).exists():
            write_image(root / 'images' / image['file_name'])
    settings: dict[str, Any] = dict(
        ann_file='train.json',
        data_root=str(root),
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=CLASSES),
        pipeline=PIPELINE,
        serialize_data=False,
    )
    return settings | kwargs
