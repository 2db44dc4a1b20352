"""The benchmark of image loading runs on data that it makes itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from mmengine.config import Config

from dynperceiver_cls.datasets import ImageFolder, PackedImages

REPOSITORY = Path(__file__).parents[3]
BASES = REPOSITORY / 'configs' / '_base_' / 'datasets'


@pytest.fixture(scope='module')
def benchmark() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location('image_loading', REPOSITORY / 'benchmarks' / 'image_loading.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_photos_are_as_large_as_those_of_imagenet(benchmark: ModuleType, tmp_path: Path) -> None:
    benchmark.write_folder(tmp_path, 2)
    sizes = [path.stat().st_size for path in (tmp_path / 'photos').iterdir()]
    assert len(sizes) == 2 and all(80_000 < size < 160_000 for size in sizes)
    levels = np.asarray(benchmark.photo(96, 64, 0), float)
    assert np.abs(np.diff(levels, axis=1)).mean() < levels.std()  # smoother than noise, whose neighbours differ by more


def test_speeds_are_measured(benchmark: ModuleType, tmp_path: Path) -> None:
    benchmark.write_folder(tmp_path, 4)
    benchmark.write_packed(tmp_path / 'small.npz', 70)
    imagenet, cifar = (Config.fromfile(BASES / f'{name}.py').train_pipeline for name in ('imagenet_224', 'cifar10_jpeg'))
    folder = ImageFolder(data_root=str(tmp_path), pipeline=imagenet)
    packed = PackedImages('small.npz', data_root=str(tmp_path), pipeline=cifar)
    assert (len(folder), len(packed)) == (4, 70)
    assert packed.get_data_info(0)['img_bytes'] == packed.get_data_info(64)['img_bytes'] != packed.get_data_info(1)['img_bytes']
    assert benchmark.images_per_second(packed, 8, 1) > 0
    ms = benchmark.step_ms(folder, imagenet, 3)
    assert list(ms) == ['LoadImage', 'RandomResizedCrop', 'RandomFlip', 'PackInputs'] and ms['LoadImage'] > ms['PackInputs'] > 0
