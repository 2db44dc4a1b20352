"""ImageNet-1k as it is usually unpacked."""

from __future__ import annotations

import os
from typing import Any

from dynperceiver.data import in_words
from dynperceiver_runtime import UserError

from ..registry import DATASETS
from .folders import ImageFolder, list_folders
from .lists import read_name_label_list, require_images

__all__ = ['ImageNet']

_SOURCE = 'ImageNet-1k (ILSVRC 2012 classification), https://image-net.org, after registration'


@DATASETS.register_module()
class ImageNet(ImageFolder):
    """ImageNet-1k: ``data_root/train/WNID/NAME.JPEG`` and ``data_root/val/WNID/NAME.JPEG``, or a flat folder and a list.

    Classes are numbered by their WNIDs, sorted, as everywhere. Without a list, the split's folders must be all of them.

    Args:
        data_root: Folder with ``train`` and ``val``.
        split: ``'train'`` or ``'val'``.
        ann_file: A list below ``data_root`` with lines ``NAME LABEL``, such as OpenMMLab's ``meta/val.txt``; names count from the
            split's folder. For validation images that were left in one folder.
        num_classes: How many classes there must be; set it for a subset of ImageNet.
        kwargs: Passed on to :class:`ImageFolder`.

    Raises:
        MissingFileError: If the folder, the list or an image of the list is missing (with ``lazy_init=True``: when first needed).
        UserError: If the folders are not those of ``num_classes`` classes, a class has no images, or the list has a mistake.
    """

    def __init__(
        self, data_root: str, split: str = 'train', *, ann_file: str = '', num_classes: int = 1000, source: str = _SOURCE, **kwargs: Any
    ) -> None:
        if split not in ('train', 'val'):
            raise UserError(f"split={split!r} must be 'train' or 'val'; ImageNet's test images have no public labels.")
        self.split = split
        self.num_classes = num_classes
        prefix = kwargs.pop('data_prefix', {'img_path': split})
        super().__init__(data_root=data_root, ann_file=ann_file, data_prefix=prefix, source=source, **kwargs)
        self.entry_name = 'line' if ann_file else ImageFolder.entry_name

    def load_samples(self) -> list[dict[str, Any]]:
        """Search the folders, or read the list.

        Raises:
            UserError: If they are not as the class says.
        """
        root = self.data_prefix['img_path'].rstrip('/')
        if self.ann_file != root:
            return self._load_list(root)
        samples = super().load_samples()
        classes = self._metainfo['classes']
        if len(classes) != self.num_classes:
            raise UserError(
                f'{root} has {len(classes)} class folders ({in_words(classes, 3)}), but there must be {self.num_classes}; unpack all '
                f'archives, or for a subset set num_classes={len(classes)} here, in '
                'model.backbone and in model.data_preprocessor.mixing.'
            )
        return samples

    def _load_list(self, root: str) -> list[dict[str, Any]]:
        rows = read_name_label_list(self.ann_file)
        classes = self.expected_classes() or self._training_classes() or tuple(str(number) for number in range(self.num_classes))
        if len(classes) != self.num_classes:
            raise UserError(f'there are {len(classes)} classes, but num_classes={self.num_classes}; set num_classes={len(classes)}.')
        bad = [(name, label) for name, label in rows if label >= self.num_classes]
        if bad:
            raise UserError(
                f'{self.ann_file}: {len(bad)} labels are out of range, for example {bad[0][1]} of {bad[0][0]}; there are '
                f'{self.num_classes} classes, numbered from 0. Subtract 1 if the list counts from 1, or set num_classes.'
            )
        samples = [{'img_path': os.path.join(root, name), 'gt_label': label} for name, label in rows]
        require_images([sample['img_path'] for sample in samples], self.ann_file)
        self._metainfo['classes'] = classes
        return samples

    def _training_classes(self) -> tuple[str, ...] | None:
        folder = os.path.join(self.data_root, 'train')
        return tuple(list_folders(folder)) or None if os.path.isdir(folder) else None
