"""Every kind of image file becomes an RGB image of 8 bits."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_images import noise

from dynperceiver_cls.transforms import LoadImage


def _load(path: Path, **arguments: Any) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        return LoadImage(**arguments)({'img_path': str(path)})


def _pixels(path: Path, **arguments: Any) -> np.ndarray:
    image = _load(path, **arguments)['img']
    assert image.mode == 'RGB'
    return np.asarray(image)


def test_from_path_and_from_bytes(tmp_path: Path) -> None:
    image = noise(7, 5)
    image.save(tmp_path / 'a.png')
    results = _load(tmp_path / 'a.png')
    assert results['ori_shape'] == (5, 7)
    np.testing.assert_array_equal(results['img'], image)
    content = {'img_path': 'file.npz#train/3', 'img_bytes': (tmp_path / 'a.png').read_bytes(), 'gt_label': 2}
    results = LoadImage()(content)
    np.testing.assert_array_equal(results.pop('img'), image)
    assert results == {'img_path': 'file.npz#train/3', 'gt_label': 2, 'ori_shape': (5, 7)}


def test_greyscale_alpha_and_palette(tmp_path: Path) -> None:
    grey = np.array([[0, 100, 255]], np.uint8)
    Image.fromarray(grey).save(tmp_path / 'l.png')
    np.testing.assert_array_equal(_pixels(tmp_path / 'l.png'), np.stack([grey] * 3, -1))
    Image.fromarray(np.array([[[10, 20, 30, 0], [40, 50, 60, 255]]], np.uint8)).save(tmp_path / 'rgba.png')
    np.testing.assert_array_equal(_pixels(tmp_path / 'rgba.png'), [[[10, 20, 30], [40, 50, 60]]])
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), 'L').convert('P')
    palette.putpalette([1, 2, 3, 4, 5, 6])
    palette.save(tmp_path / 'p.png', transparency=b'\x00\x80')
    np.testing.assert_array_equal(_pixels(tmp_path / 'p.png'), [[[1, 2, 3], [4, 5, 6]]])
    Image.fromarray(np.array([[True, False]])).save(tmp_path / '1.png')
    np.testing.assert_array_equal(_pixels(tmp_path / '1.png'), [[[255] * 3, [0] * 3]])


def test_cmyk(tmp_path: Path) -> None:
    Image.new('CMYK', (8, 8), (0, 255, 255, 0)).save(tmp_path / 'cmyk.jpg')
    red, green, blue = _pixels(tmp_path / 'cmyk.jpg')[4, 4]
    assert red > 250 and green < 5 and blue < 5


def test_sixteen_bits(tmp_path: Path) -> None:
    levels = np.array([[0, 255, 256, 0x7FFF, 0xFFFF]], np.uint16)
    for name in ('a.png', 'a.tif'):
        Image.fromarray(levels).save(tmp_path / name)
        np.testing.assert_array_equal(_pixels(tmp_path / name)[0, :, 1], [0, 0, 1, 127, 255])


@pytest.mark.parametrize(('value', 'dtype', 'text'), [(70000, np.int32, 'pixels run from 70000 to 70000'), (0.5, np.float32, 'floating')])
def test_other_depths_are_refused(tmp_path: Path, value: float, dtype: type, text: str) -> None:
    Image.fromarray(np.full((2, 2), value, dtype)).save(tmp_path / 'a.tif')
    with pytest.raises(ValueError, match=f'{text}.*save the image with 8 bits per channel'):
        _load(tmp_path / 'a.tif')


@pytest.mark.parametrize('orientation', [1, 3, 6])
def test_exif_turns_on_request_only(tmp_path: Path, orientation: int) -> None:
    image = Image.new('RGB', (24, 16), 'black')
    image.paste('white', (0, 0, 8, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / 'a.jpg', exif=exif, quality=95)
    stored = _load(tmp_path / 'a.jpg')
    assert stored['ori_shape'] == (16, 24) and stored['img'].size == (24, 16)
    assert np.asarray(stored['img'])[8, 2].min() > 200
    turned = _load(tmp_path / 'a.jpg', apply_exif=True, draft_size=8)
    assert turned['ori_shape'] == ((24, 16) if orientation == 6 else (16, 24))
    bright = np.asarray(turned['img'])
    corner = {1: (4, 0), 3: (4, -1), 6: (0, 4)}[orientation]
    assert bright[corner].min() > 150 and bright[tuple(-1 - i for i in corner)].max() < 100


def test_draft_reduces_no_further_than_asked(tmp_path: Path) -> None:
    smooth = noise(8, 6).resize((400, 300), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / 'a.jpg', quality=95)
    smooth.save(tmp_path / 'a.png')
    sizes = {draft: _load(tmp_path / 'a.jpg', draft_size=draft)['img'].size for draft in (301, 160, 150, (150, 210), (75, 100))}
    assert sizes == {301: (400, 300), 160: (400, 300), 150: (200, 150), (150, 210): (400, 300), (75, 100): (100, 75)}
    results = _load(tmp_path / 'a.jpg', draft_size=150)
    assert results['ori_shape'] == (300, 400)
    reduced = np.asarray(smooth.resize((200, 150), Image.Resampling.BOX), np.float32)
    assert np.abs(np.asarray(results['img'], np.float32) - reduced).mean() < 2
    assert _load(tmp_path / 'a.png', draft_size=75)['img'].size == (400, 300)
    with pytest.raises(ValueError, match='draft_size=0 must be a number of pixels above 0'):
        LoadImage(draft_size=0)


def test_cut_off_files_are_refused() -> None:
    file = BytesIO()
    noise(64, 64).save(file, 'JPEG')
    with pytest.raises(OSError, match='truncated'):
        LoadImage()({'img_bytes': file.getvalue()[:1500]})
