"""Every operation of RandAugment against Pillow, which the recipe's figures were made with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from dynperceiver_cls.batch_augments import OPERATIONS

FILL = torch.tensor([124.0, 116.0, 104.0])
FACTORS = [[0.1, 0.19, 0.5, 0.97], [1.0, 1.3, 1.81, 1.9]]
AMOUNTS = {  # four images each
    'AutoContrast': [[0] * 4],
    'Equalize': [[0] * 4],
    'Invert': [[0] * 4],
    'Posterize': [[0, 1, 2, 8], [3, 4, 5, 6]],
    'Solarize': [[26, 0, 256, 255], [1, 128, 127, 200]],
    'SolarizeAdd': [[99, 0, 128, 10]],
    'Color': FACTORS,
    'Contrast': FACTORS,
    'Brightness': FACTORS,
    'Sharpness': FACTORS,
    # Nearest pixels are compared, too: no points right between two of them, where kornia takes the even one.
    'Rotate': [[27, -27, 3.3, 0], [-29, 29, 12.5, -1]],
    'ShearX': [[0.27, -0.27, 0.02, 0], [0.3, -0.3, 0.1, -0.1]],
    'ShearY': [[0.27, -0.27, 0.02, 0], [0.3, -0.3, 0.1, -0.1]],
    'TranslateX': [[0.405, -0.405, 0.02, 0], [0.45, -0.45, 0.1, -0.1]],
    'TranslateY': [[0.405, -0.405, 0.02, 0], [0.45, -0.45, 0.11, -0.11]],
}
LEVELS = [(name, amounts) for name, rows in AMOUNTS.items() if not OPERATIONS[name].geometric for amounts in rows]
EXACT = {'Equalize', 'Invert', 'Posterize', 'Solarize', 'SolarizeAdd'}  # the others round at other places
GEOMETRIC = [(name, amounts) for name, rows in AMOUNTS.items() if OPERATIONS[name].geometric for amounts in rows]
Pillow = Callable[..., Tensor]


def _double(amounts: list[float]) -> Tensor:
    return torch.tensor(amounts, dtype=torch.float64)


def test_every_operation_is_compared() -> None:
    assert set(AMOUNTS) == set(OPERATIONS)
    assert len(OPERATIONS) == 15


def _inside(pillow: Pillow, name: str, like: Tensor, amounts: list[float], margin: int) -> Tensor:
    """Pixels that come from inside the image, at least ``margin`` from those that do not; from outside for a negative margin."""
    white = torch.full_like(like, 255)
    from_outside = (pillow(name, white, amounts, 'nearest') != 255).float()
    size = 2 * abs(margin) + 1
    if margin < 0:
        return 1 - max_pool2d(1 - from_outside, size, 1, -margin) == 1
    return max_pool2d(pad(from_outside, [margin] * 4, value=1.0), size, 1) == 0


@pytest.mark.parametrize(('name', 'amounts'), LEVELS)
def test_grey_levels_are_pillows(images_BCHW: Tensor, pillow: Pillow, name: str, amounts: list[float]) -> None:
    before = images_BCHW.clone()
    result = OPERATIONS[name].apply(images_BCHW, _double(amounts))
    difference = result - pillow(name, images_BCHW, amounts)
    assert difference.abs().max() <= (0 if name in EXACT else 1)
    assert difference.abs().mean() < 0.25
    assert difference.mean().abs() < 0.15  # results that are rounded instead of truncated are 0.5 too high
    assert torch.equal(images_BCHW, before)


@pytest.mark.parametrize(('name', 'amounts'), GEOMETRIC)
def test_geometry_is_pillows(images_BCHW: Tensor, pillow: Pillow, name: str, amounts: list[float]) -> None:
    """But for the outermost pixels: kornia mixes the fill into them."""
    before = images_BCHW.clone()
    result = OPERATIONS[name].apply(images_BCHW, _double(amounts), FILL, 'bilinear')
    difference = (result - pillow(name, images_BCHW, amounts, 'bilinear')).abs()
    interior = difference[_inside(pillow, name, images_BCHW, amounts, 1)]
    assert len(interior) > 0.4 * difference.numel()
    assert interior.max() <= 1
    assert interior.mean() < 0.05
    assert (difference[_inside(pillow, name, images_BCHW, amounts, -1)] == 0).all()
    assert torch.equal(images_BCHW, before)


@pytest.mark.parametrize('images_BCHW', ['photos'], indirect=True)
@pytest.mark.parametrize(('name', 'amounts'), GEOMETRIC)
def test_bicubic_geometry_is_close_to_pillows(images_BCHW: Tensor, pillow: Pillow, name: str, amounts: list[float]) -> None:
    """Kornia's kernel has a = -0.75 and Pillow's -1: several grey levels at an edge, next to nothing elsewhere."""
    expected = pillow(name, images_BCHW, amounts)
    interior, outside = (_inside(pillow, name, images_BCHW, amounts, margin) for margin in (2, -2))
    result = OPERATIONS[name].apply(images_BCHW, _double(amounts), FILL, 'bicubic')
    difference = (result - expected)[interior]
    assert difference.abs().max() <= 8
    assert difference.abs().mean() < 0.5
    assert difference.mean().abs() < 0.05
    assert torch.equal(result[outside], expected[outside])
    bilinear = OPERATIONS[name].apply(images_BCHW, _double(amounts), FILL, 'bilinear')
    assert difference.abs().mean() < 0.7 * (bilinear - expected)[interior].abs().mean()


@pytest.mark.parametrize(('name', 'amounts'), GEOMETRIC)
def test_nearest_pixels_are_pillows(images_BCHW: Tensor, pillow: Pillow, name: str, amounts: list[float]) -> None:
    """All pixels, those at the border and outside it too; a point right between two pixels, where rounding decides, is rare."""
    result = OPERATIONS[name].apply(images_BCHW, _double(amounts), FILL, 'nearest')
    assert (result != pillow(name, images_BCHW, amounts, 'nearest')).float().mean() < 0.001


@pytest.mark.parametrize(('name', 'amounts'), GEOMETRIC)
@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
def test_marks_land_where_pillows_do(pillow: Pillow, name: str, amounts: list[float], interpolation: str) -> None:
    """By the centre of mass of a square mark off the centre, to a twentieth of a pixel."""
    images = torch.zeros(4, 3, 45, 61)
    marked = images.clone()
    marked[:, :, 21:26, 33:38] = 200
    halves = [amount / 2 for amount in amounts]  # the mark stays inside
    kornias = [OPERATIONS[name].apply(each, _double(halves), FILL, interpolation) for each in (marked, images)]
    pillows = [pillow(name, each, halves, interpolation) for each in (marked, images)]
    places = []
    for with_mark, without in (kornias, pillows):
        mark_NHW = (with_mark - without)[:, 0]
        moment_y, moment_x = (mark_NHW.sum(2) * torch.arange(45)).sum(1), (mark_NHW.sum(1) * torch.arange(61)).sum(1)
        places.append(torch.stack([moment_y, moment_x]) / mark_NHW.sum((1, 2)))
    torch.testing.assert_close(places[0], places[1], rtol=0, atol=0.05)
    assert (places[0] - torch.tensor([[23.0], [35.0]])).abs().max() > 1  # they have moved


@pytest.mark.parametrize('name', OPERATIONS)
def test_results_are_whole_grey_levels(images_BCHW: Tensor, name: str) -> None:
    operation = OPERATIONS[name]
    arguments = (FILL, 'bicubic') if operation.geometric else ()
    result = operation.apply(images_BCHW, _double(AMOUNTS[name][0]), *arguments)
    assert result.dtype == torch.float32
    assert torch.equal(result, result.round())
    assert (result.min() >= 0) and (result.max() <= 255)


@pytest.mark.parametrize('name', [name for name in OPERATIONS if not OPERATIONS[name].geometric])
@pytest.mark.parametrize('size', [(1, 1), (2, 9), (9, 2), (3, 3)])
@pytest.mark.parametrize('level', [0, 100, 255, None])
def test_flat_and_small_images(pillow: Pillow, name: str, size: tuple[int, int], level: int | None) -> None:
    """No contrast to stretch, a histogram of one level, no inner pixel to smooth."""
    images = torch.randint(256, (4, 3, *size)).float() if level is None else torch.full((4, 3, *size), float(level))
    amounts = AMOUNTS[name][-1]
    result = OPERATIONS[name].apply(images, _double(amounts))
    torch.testing.assert_close(result, pillow(name, images, amounts), rtol=0, atol=0 if name in EXACT else 1)


def test_channels_have_tables_of_their_own(pillow: Pillow) -> None:
    """Few levels in one channel, one level in another, and an image at whose top a table runs over."""
    images = torch.randint(256, (4, 3, 40, 30)).float()
    images[:, 1] = 70
    images[:, 2] = images[:, 2].clamp(100, 110)
    images[3, 0, :30] = 250
    for name in ('AutoContrast', 'Equalize'):
        result = OPERATIONS[name].apply(images, _double([0] * 4))
        torch.testing.assert_close(result, pillow(name, images, [0] * 4), rtol=0, atol=0 if name in EXACT else 1)


def test_fill_reaches_what_comes_from_outside() -> None:
    fill = torch.tensor([1.0, 2.0, 3.0])
    moved = OPERATIONS['TranslateX'].apply(torch.full((1, 3, 4, 10), 200.0), _double([0.5]), fill, 'bicubic')
    assert torch.equal(moved[0, :, :, 5:], fill.view(3, 1, 1).expand(3, 4, 5))
    assert (moved[0, :, :, :5] == 200).all()
