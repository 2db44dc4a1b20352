"""Small data sets of labelled images in every form that is read, to be spoilt by tests."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

__all__ = [
    'CIFAR10_CLASSES', 'PIPELINE', 'cifar_pickle', 'image_bytes', 'noise', 'packed_arrays', 'pickle2_string', 'write_cifar10',
    'write_cifar100', 'write_folders', 'write_image',
]

PIPELINE = [dict(type='dynperceiver_cls.LoadImage'), dict(type='dynperceiver_cls.PackInputs')]
CIFAR10_CLASSES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """An RGB image whose pixels differ."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))


def image_bytes(level: int = 0, size: tuple[int, int] = (6, 4), format: str = 'PNG') -> bytes:
    """An image file of a width, a height and one grey level."""
    file = BytesIO()
    Image.new('RGB', size, (level,) * 3).save(file, format)
    return file.getvalue()


def write_image(path: Path, level: int = 0, size: tuple[int, int] = (6, 4)) -> None:
    """Write an image of one grey level in the format that its extension says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, (level,) * 3).save(path)


def write_folders(root: Path, counts: Mapping[str, int], extension: str = '.png') -> None:
    """Write a folder for every class, with so many images; the n-th image of all has grey level n."""
    level = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            write_image(root / name / f'{i}{extension}', level)
            level += 1


def packed_arrays(labels: Sequence[int], split: str = 'train', classes: Sequence[str] = ('cat', 'dog')) -> dict[str, np.ndarray]:
    """Arrays of an npz file whose n-th image has grey level n."""
    contents = [image_bytes(i) for i in range(len(labels))]
    return {
        f'{split}_jpeg': np.frombuffer(b''.join(contents), np.uint8),
        f'{split}_offset': np.cumsum([0] + [len(content) for content in contents]),
        f'{split}_label': np.array(labels, np.uint8),
        'classes': np.array(classes),
    }


def pickle2_string(text: bytes) -> bytes:
    """Pickle opcodes of a Python 2 string."""
    return b'T' + struct.pack('<i', len(text)) + text


def _pickle2(value: Any) -> bytes:
    if isinstance(value, bytes):
        return pickle2_string(value)
    if isinstance(value, int):
        return b'J' + struct.pack('<i', value)
    if isinstance(value, list):
        return b'](' + b''.join(map(_pickle2, value)) + b'e'
    if isinstance(value, dict):
        return b'}(' + b''.join(_pickle2(key) + _pickle2(item) for key, item in value.items()) + b'u'
    make = b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR'
    dtype = b'cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'
    return make + b'(K\x01' + b'(' + b''.join(map(_pickle2, value.shape)) + b't' + dtype + b'\x89' + pickle2_string(value.tobytes()) + b'tb'


def cifar_pickle(content: Any) -> bytes:
    """A pickle of dicts, lists, whole numbers, bytes and uint8 arrays as Python 2 wrote it, which is how CIFAR was published."""
    return b'\x80\x02' + _pickle2(content) + b'.'


def _batch(count: int, seed: int, keys: Mapping[bytes, int]) -> dict[bytes, Any]:
    rng = np.random.default_rng(seed)
    labels = {key: rng.integers(0, number, count).tolist() for key, number in keys.items()}
    return {b'data': rng.integers(0, 256, (count, 3072)).astype(np.uint8), **labels, b'filenames': [b'%d.png' % i for i in range(count)]}


def write_cifar10(root: Path, count: int = 3) -> Path:
    """Write CIFAR-10 with so many images in each of its six batches."""
    folder = root / 'cifar-10-batches-py'
    folder.mkdir(parents=True)
    for i, name in enumerate([*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch']):
        (folder / name).write_bytes(cifar_pickle({b'batch_label': name.encode(), **_batch(count, i, {b'labels': 10})}))
    (folder / 'batches.meta').write_bytes(cifar_pickle({b'label_names': [name.encode() for name in CIFAR10_CLASSES], b'num_vis': 3072}))
    return folder


def write_cifar100(root: Path, count: int = 3) -> Path:
    """Write CIFAR-100 with so many images in each of its two splits."""
    folder = root / 'cifar-100-python'
    folder.mkdir(parents=True)
    for i, name in enumerate(['train', 'test']):
        (folder / name).write_bytes(cifar_pickle(_batch(count, i, {b'coarse_labels': 20, b'fine_labels': 100})))
    (folder / 'meta').write_bytes(cifar_pickle({b'fine_label_names': [b'class%d' % i for i in range(100)], b'coarse_label_names': [b'x']}))
    return folder
