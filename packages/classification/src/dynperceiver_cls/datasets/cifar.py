"""CIFAR-10 and CIFAR-100 as their authors published them for Python."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from dynperceiver.data import in_words
from dynperceiver_runtime import UserError
from dynperceiver_runtime.files import reading

from ..registry import DATASETS
from .archives import Archive, ArchiveDataset

__all__ = ['CIFAR10', 'CIFAR100', 'load_batch']

_SIDE = 32  # pixels
_SOURCE = (
    "A. Krizhevsky's page 'The CIFAR-10 and CIFAR-100 datasets' (https://www.cs.toronto.edu/~kriz/cifar.html), 'python version', unpacked"
)
_RECONSTRUCT = np.ndarray(0).__reduce__()[0]
# All that these pickles name; numpy has moved since they were made.
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): np.dtype,
    ('numpy.core.multiarray', '_reconstruct'): _RECONSTRUCT,
    ('numpy._core.multiarray', '_reconstruct'): _RECONSTRUCT,
}


class _DataOnly(pickle.Unpickler):
    """Makes dicts, lists, bytes and NumPy arrays, and nothing else: other pickles could run any program."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Return what an array is made of."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f'it asks for {module}.{name}, and only NumPy arrays, dicts, lists and bytes are read')
        return _ALLOWED[module, name]


def load_batch(path: str) -> dict[str, Any]:
    """Read a pickle file of CIFAR that holds data only.

    Args:
        path: The file.

    Returns:
        Its dict; strings other than keys are bytes.

    Raises:
        UserError: If the file is cut off, or has something else in it.
    """
    with reading(path), open(path, 'rb') as file:
        try:
            content = _DataOnly(file, encoding='bytes').load()
        except Exception as error:  # a broken pickle raises errors of many types
            raise UserError(f'{path} is no complete file of CIFAR ({type(error).__name__}: {error}); unpack the archive again.') from error
    if not isinstance(content, dict):
        raise UserError(f'{path} must hold a dict, but holds a {type(content).__name__}; unpack the archive again.')
    return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in content.items()}


class _Batches(Archive):
    """One split of CIFAR.

    Args:
        path: Folder of the batches.
        split: ``'train'`` or ``'test'``.

    Raises:
        UserError: If a file's content is not that of CIFAR.
    """

    files: dict[str, tuple[str, ...]]  # of every split
    label_key: str
    meta: tuple[str, str]  # file of the classes' names, and key

    def __init__(self, path: str, split: str) -> None:
        super().__init__(path, split)
        meta_file, meta_key = self.meta
        meta_path = os.path.join(path, meta_file)
        self.classes = tuple(name.decode() for name in _entry(load_batch(meta_path), meta_key, meta_path))
        images, self.labels = [], []
        for name in self.files[split]:
            file = os.path.join(path, name)
            batch = load_batch(file)
            images_NP, labels = _entry(batch, 'data', file), _entry(batch, self.label_key, file)
            _check_batch(images_NP, labels, len(self.classes), file)
            images.append(images_NP.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))
            self.labels += labels
        self._images_NHWC = np.concatenate(images)

    def read(self, position: int) -> bytes:
        """Return an image as a PPM file, the simplest format there is."""
        return b'P6 %d %d 255\n' % (_SIDE, _SIDE) + self._images_NHWC[position].tobytes()


class _Batches10(_Batches):
    files = {'train': tuple(f'data_batch_{i}' for i in range(1, 6)), 'test': ('test_batch',)}
    label_key = 'labels'
    meta = ('batches.meta', 'label_names')


class _Batches100(_Batches):
    files = {'train': ('train',), 'test': ('test',)}
    label_key = 'fine_labels'
    meta = ('meta', 'fine_label_names')


@DATASETS.register_module()
class CIFAR10(ArchiveDataset):
    """CIFAR-10, the version for Python: ``data_root/cifar-10-batches-py``.

    The published files are pickles; they are read without running what a pickle may ask for.

    Args:
        data_root: Folder with ``cifar-10-batches-py``.
        split: ``'train'`` (50,000 images of 32x32 pixels) or ``'test'`` (10,000).
        source: See :class:`~dynperceiver.data.BadSampleMixin`.
        kwargs: Passed on to :class:`ImageDataset` (``part``, ``holdout``, ``split_seed``).

    Raises:
        MissingFileError: If a file is missing (with ``lazy_init=True``: when first needed).
        UserError: If a file is broken, or ``metainfo['classes']`` differs from the data set's.
    """

    folder = 'cifar-10-batches-py'
    batches: type[_Batches] = _Batches10

    def __init__(self, data_root: str, split: str = 'train', source: str = _SOURCE, **kwargs: Any) -> None:
        if split not in self.batches.files:
            raise UserError(f'split={split!r} must be one of {tuple(self.batches.files)}; hold images out by part and holdout.')
        super().__init__(data_root=data_root, data_prefix={'img_path': self.folder}, split=split, source=source, **kwargs)

    def open_archive(self, path: str) -> Archive:
        """Read the split's files.

        Raises:
            MissingFileError: If one is missing.
        """
        for name in (*self.batches.files[self.split], self.batches.meta[0]):
            file = os.path.join(path, name)
            if not os.path.isfile(file):
                raise self.missing_data('file', file)
        return self.batches(path, self.split)


@DATASETS.register_module()
class CIFAR100(CIFAR10):
    """CIFAR-100 with its 100 fine labels, the version for Python: ``data_root/cifar-100-python``; see :class:`CIFAR10`."""

    folder = 'cifar-100-python'
    batches = _Batches100


def _entry(content: dict[str, Any], key: str, path: str) -> Any:
    if key not in content:
        raise UserError(f'{path} lacks {key!r}; it has {in_words(sorted(content), 10) or "nothing"}. Unpack the archive again.')
    return content[key]


def _check_batch(images_NP: Any, labels: Any, num_classes: int, path: str) -> None:
    length = 3 * _SIDE * _SIDE
    if not isinstance(images_NP, np.ndarray) or images_NP.dtype != np.uint8 or images_NP.ndim != 2 or images_NP.shape[1] != length:
        what = f'{images_NP.dtype} {images_NP.shape}' if isinstance(images_NP, np.ndarray) else type(images_NP).__name__
        raise UserError(f"{path}: 'data' must be uint8 (images, {length}), but is {what}; unpack the archive again.")
    if not isinstance(labels, list) or len(labels) != len(images_NP):
        what = f'one of {len(labels)}' if isinstance(labels, list) else f'a {type(labels).__name__}'
        raise UserError(f'{path}: there must be a list of {len(images_NP)} labels, but there is {what}; unpack the archive again.')
    bad = [label for label in labels if not isinstance(label, int) or not 0 <= label < num_classes]
    if bad:
        raise UserError(
            f'{path}: {len(bad)} labels are out of range, for example {bad[0]!r}; there are {num_classes} classes, numbered from 0. '
            'Unpack the archive again.'
        )
