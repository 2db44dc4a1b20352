"""The embedded demo images: reproducible, complete or not there, and of rising difficulty."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynperceiver_cls.demo import DemoParams, images, is_complete, make_demo_images, render_digit

SMALL = DemoParams(seed=3, num_train=20, num_val=10, size_px=36)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


@pytest.fixture(scope='module')
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('demo') / 'deep/set'
    assert make_demo_images(folder, SMALL, progress=False)
    return folder


def test_data_set_is_complete(demo: Path) -> None:
    assert {path.name for path in demo.iterdir()} == {'train', 'val', 'manifest.json', 'overview.png'}
    for split, count in (('train', 2), ('val', 1)):
        assert sorted(path.name for path in (demo / split).iterdir()) == list('0123456789')
        for folder in (demo / split).iterdir():
            files = list(folder.iterdir())
            assert len(files) == count
            assert all(Image.open(path).size == (36, 36) and Image.open(path).mode == 'RGB' for path in files)
    manifest = json.loads((demo / 'manifest.json').read_text())
    assert manifest['params'] == {'seed': 3, 'num_train': 20, 'num_val': 10, 'size_px': 36}
    assert manifest['classes'] == list('0123456789')


def test_nothing_is_done_twice_and_the_same_comes_out_again(demo: Path, tmp_path: Path) -> None:
    before = _files(demo)
    assert not make_demo_images(demo, SMALL, progress=False)
    assert make_demo_images(tmp_path / 'again', SMALL, progress=False)
    assert _files(tmp_path / 'again') == before


def test_another_seed_gives_other_pictures_and_more_of_them_keep_the_first(demo: Path, tmp_path: Path) -> None:
    make_demo_images(tmp_path / 'other', DemoParams(4, 20, 10, 36), progress=False)
    make_demo_images(tmp_path / 'more', DemoParams(3, 30, 10, 36), progress=False)
    first = 'train/0/00000.png'
    assert (tmp_path / 'other' / first).read_bytes() != (demo / first).read_bytes()
    assert (tmp_path / 'more' / first).read_bytes() == (demo / first).read_bytes()


def test_a_missing_picture_makes_it_incomplete(demo: Path, tmp_path: Path) -> None:
    make_demo_images(tmp_path / 'set', SMALL, progress=False)
    (tmp_path / 'set/val/3/00003.png').unlink()
    assert not is_complete(tmp_path / 'set', SMALL)
    assert make_demo_images(tmp_path / 'set', SMALL, progress=False)
    assert _files(tmp_path / 'set') == _files(demo)


def test_held_out_digits_are_never_trained_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[bytes] = []

    def record(rng: np.random.Generator, ink: np.ndarray, size_px: int, difficulty: float) -> Image.Image:
        seen.append(ink.tobytes())
        return Image.new('RGB', (size_px, size_px))

    monkeypatch.setattr(images, 'render_digit', record)
    make_demo_images(tmp_path / 'set', DemoParams(0, 400, 200, 32), progress=False)
    assert len(set(seen[:400])) > 200 and len(set(seen[400:600])) > 100
    assert not set(seen[:400]) & set(seen[400:600])


def test_hard_digits_have_less_contrast_than_easy_ones() -> None:
    ink = np.zeros((8, 8))
    ink[2:6, 2:6] = 1

    def signal(difficulty: float) -> float:
        """Middle of the grey levels' spread over the noise of neighbouring pixels."""
        values = []
        for seed in range(20):
            grey = np.asarray(render_digit(np.random.default_rng(seed), ink, 64, difficulty).convert('L'), float)
            values.append(np.ptp(np.percentile(grey, [5, 95])) / np.abs(np.diff(grey)).mean())
        return float(np.mean(values))

    assert signal(0.0) > 3 * signal(1.0)


@pytest.mark.parametrize(('name', 'value'), [('seed', -1), ('num_train', 9), ('num_val', 0), ('size_px', 31)])
def test_numbers_out_of_range(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f'{name}={value} is too small: {name} must be at least'):
        DemoParams(**{name: value})
