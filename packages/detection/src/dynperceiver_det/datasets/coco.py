"""mmdet's COCO data set with :class:`~dynperceiver.data.BadSampleMixin`, and with the annotation file checked as it is read."""

from __future__ import annotations

import gc
import logging
import os.path as osp
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from mmdet.datasets import CocoDataset as _CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmengine.logging import print_log

from dynperceiver.data import BadSampleMixin, Fault, jpeg_looks_cut
from dynperceiver_runtime import MissingFileError, UserError

from ..registry import DATASETS
from .boxes import BAD_BOXES, check_boxes
from .classes import check_classes
from .images import diagnose_photo, missing_files
from .records import Records, in_words, read_json, require_sections

__all__ = ['CocoDataset']


@DATASETS.register_module()
class CocoDataset(BadSampleMixin, _CocoDataset):
    """mmdet's ``CocoDataset`` that says what is wrong with a data set before the first training step.

    A file without mistakes gives the same samples as mmdet's. The annotation file is checked as it is read: its sections, records, ids,
    boxes and categories; then that every image to be loaded is there. Image files that are broken, or of another size than annotated, are
    skipped in training and refused in testing. Nothing is said of files on other machines. No file is ever changed.

    Args:
        args: Passed on to ``mmdet.datasets.CocoDataset``.
        bad_boxes: What to do about boxes outside their image, or sticking out by more than 1 px: ``'error'``, or ``'clip'`` them to the
            image and drop those of which nothing is left. mmdet's ``CocoMetric`` reads its ``ann_file`` itself, unclipped.
        kwargs: Passed on to ``mmdet.datasets.CocoDataset`` and :class:`~dynperceiver.data.BadSampleMixin` (``source``).

    Raises:
        MissingFileError: If the annotation file, a data folder or an image is missing (with ``lazy_init=True``: when first needed).
        UserError: If the annotation file is not what COCO format or ``metainfo['classes']`` asks for; the text names file and ids.
    """

    entry_name = 'image record'

    def __init__(self, *args: Any, bad_boxes: str = 'error', **kwargs: Any) -> None:
        if bad_boxes not in BAD_BOXES:
            raise UserError(f'bad_boxes={bad_boxes!r} must be one of {BAD_BOXES}; clip boxes to their images, or raise an error.')
        self.bad_boxes = bad_boxes
        super().__init__(*args, **kwargs)

    # What mmdet calls.

    def load_data_list(self) -> list[dict[str, Any]]:
        """Load and check the annotations.

        Raises:
            MissingFileError: If the annotation file or a data folder is missing.
            UserError: If there is a mistake in the annotation file.
        """
        if 'img' not in self.data_prefix:
            raise UserError(f"data_prefix={self.data_prefix} needs the images' folder as 'img'; write data_prefix=dict(img='images/').")
        with _no_garbage_collection():
            return super().load_data_list()

    def COCOAPI(self, path: str) -> COCO:
        """Read and check the annotation file at a path on this machine; stands in for mmdet's class of that name."""
        content = read_json(path, self.ann_file)
        self._check(content)
        coco = COCO()
        coco.dataset = content
        coco.createIndex()
        coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
        return coco

    def filter_data(self) -> list[dict[str, Any]]:
        """Filter the samples as mmdet does, and look whether the images of those that stay are there.

        Raises:
            MissingFileError: If one is not.
        """
        self.data_list = super().filter_data()
        self._require_images(self.data_list if self._indices is None else self._get_unserialized_subset(self._indices))
        return self.data_list

    # What BadSampleMixin calls.

    def is_remote(self, path: str) -> bool:
        """Tell whether files are read through another backend than the local disk's."""
        return '://' in path or (self.backend_args or {}).get('backend', 'local') != 'local'

    def sample_path(self, info: dict[str, Any]) -> str:
        """Return the path of the image."""
        return info['img_path']

    def fault_after(self, info: dict[str, Any]) -> Fault | None:
        """Look for images of another size than annotated, and JPEG files cut off, which some versions of OpenCV fill up with grey.

        Pipelines that do not load the image as ``LoadImageFromFile`` does, which notes its ``ori_shape``, are left alone.
        """
        if 'ori_shape' not in info or self.is_remote(info['img_path']):
            return None
        suspect = tuple(info['ori_shape']) != (info['height'], info['width']) or jpeg_looks_cut(info['img_path'])
        return self.fault_of_failure(info) if suspect else None

    def fault_of_failure(self, info: dict[str, Any]) -> Fault | None:
        """Look whether the image decodes completely and has the size that the annotations give."""
        record = self.get_data_info(info['sample_idx'])  # as it was before the pipeline changed it
        if self.is_remote(record['img_path']):
            return None
        decoded_size = tuple(info['ori_shape'][::-1]) if 'ori_shape' in info else None
        fault = diagnose_photo(record['img_path'], record['width'], record['height'], decoded_size)
        if fault is None:
            return None
        return replace(fault, detail=f'image id {record["img_id"]!r}' + (f': {fault.detail}' if fault.detail else ''))

    def _check(self, content: dict[str, Any]) -> None:
        """Check the file's content; boxes are clipped in it."""
        file = self.ann_file
        require_sections(content, file, annotations=not self.test_mode)
        images = Records(content['images'], 'images', file, ('id', 'file_name', 'width', 'height'))
        categories = Records(content['categories'], 'categories', file, ('id', 'name'))
        images.require('file_name', {str}, "the image's path below data_prefix['img']")
        categories.require('name', {str}, 'a string')
        for side in ('width', 'height'):
            images.require(side, {int, float}, 'a number of pixels')
            images.refuse(side, (not 0 < value < np.inf for value in images[side]), 'a number of pixels above 0')
        fields = ('id', 'image_id', 'category_id', 'bbox', 'area')
        annotations = Records(content.get('annotations', []), 'annotations', file, fields)
        rows = _look_up(annotations, 'image_id', images)
        _look_up(annotations, 'category_id', categories)
        check_classes(categories, self._metainfo.get('classes', ()), annotations['category_id'])
        if len(annotations):
            content['annotations'] = check_boxes(annotations, images, rows, self.bad_boxes)
        if self.test_mode:
            _warn_of_evaluation(annotations)

    def _require_images(self, infos: list[dict[str, Any]]) -> None:
        infos = [info for info in infos if not self.is_remote(info['img_path'])]
        missing = missing_files([info['img_path'] for info in infos])
        if missing:
            names = [f'{infos[i]["img_path"]} (image id {infos[i]["img_id"]!r})' for i in missing]
            folder = self.data_prefix['img'] or 'the working directory'
            advice = (
                "data_prefix['img'] or data_root may point to another folder than the file's paths count from"
                if len(missing) == len(infos)
                else f'unpack the images completely, or take the records of these out of {osp.basename(self.ann_file)}'
            )
            raise MissingFileError(
                f'{self.ann_file}: {len(missing)} of {len(infos)} images are missing in {folder}: {in_words(names)}; {advice}.'
            )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Loading makes millions of objects that stay and no cycles; looking for garbage among them takes seconds on COCO."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _look_up(annotations: Records, field: str, targets: Records) -> np.ndarray:
    """Row in the targets of what each annotation points to."""
    index = {value: row for row, value in enumerate(targets['id'])}
    if not index.keys() >= set(annotations[field]):
        rule = f'the id of one of {targets.section} (there are {len(targets)}: {in_words(list(index), 3)})'
        annotations.refuse(field, (value not in index for value in annotations[field]), rule)
    return np.fromiter(map(index.__getitem__, annotations[field]), np.int64, len(annotations))


def _warn_of_evaluation(annotations: Records) -> None:
    """Say what pycocotools' evaluation would stumble over, hours later or without a word."""
    problems = []
    lacking = sum('iscrowd' not in record for record in annotations.records)
    if lacking:
        problems.append(f'{lacking} annotations lack "iscrowd", without which CocoMetric fails on this file; write "iscrowd": 0')
    if 0 in set(annotations['id']):
        problems.append("annotation id 0 never counts as found in pycocotools' evaluation; number annotations from 1")
    if problems:
        print_log(f'{annotations.file}: {"; ".join(problems)}.', logger='current', level=logging.WARNING)
