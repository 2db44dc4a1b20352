"""Random crops: where they lie, how they are spread, and what they show."""

from __future__ import annotations

import math
import random
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_images import noise

from dynperceiver_cls.transforms import RandomCrop, RandomFlip, RandomResizedCrop


def test_sampled_areas_and_ratios() -> None:
    crop = RandomResizedCrop(224)
    boxes = np.array([crop.sample(400, 300) for _ in range(4000)])
    left, top, width, height = boxes.T
    assert (left >= 0).all() and (top >= 0).all() and (left + width <= 400).all() and (top + height <= 300).all()
    area, log_ratio = width * height / 120000, np.log(width / height)
    assert 0.078 < area.min() < 0.1 and 0.95 < area.max() <= 1
    assert abs(log_ratio).max() < math.log(4 / 3) + 0.02
    # Small crops always fit, so that nothing is drawn again: both distributions are uniform there.
    small = RandomResizedCrop(224, scale=(0.1, 0.3))
    boxes = np.array([small.sample(300, 300) for _ in range(4000)])
    area, log_ratio = boxes[:, 2] * boxes[:, 3] / 90000, np.log(boxes[:, 2] / boxes[:, 3])
    assert abs(area.mean() - 0.2) < 0.004 and abs(area.std() - 0.2 / math.sqrt(12)) < 0.003
    assert abs(log_ratio.mean()) < 0.015 and abs(log_ratio.std() - 2 * math.log(4 / 3) / math.sqrt(12)) < 0.01
    room = 300 - boxes[:, 2]
    assert abs((boxes[:, 0] / room).mean() - 0.5) < 0.02 and abs((boxes[:, 1] / (300 - boxes[:, 3])).mean() - 0.5) < 0.02
    assert (boxes[:, 0] == room).any() and (boxes[:, 0] == 0).any()


@pytest.mark.parametrize(
    ('size', 'expected'),
    [((1000, 10), (493, 0, 13, 10)), ((10, 1000), (0, 493, 10, 13)), ((10, 10), (0, 0, 10, 10)), ((1, 1), (0, 0, 1, 1))],
)
def test_centre_if_nothing_fits(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], expected: tuple[int, ...]) -> None:
    draws = []
    monkeypatch.setattr(random, 'uniform', lambda low, high: draws.append((low, high)) or 50.0)
    assert RandomResizedCrop(224).sample(*size) == expected
    assert len(draws) == 20 and set(draws) == {(0.08, 1.0), (math.log(3 / 4), math.log(4 / 3))}


def test_crop_is_resized_by_bicubic_interpolation(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(80, 60).point(lambda level: 96 + level // 4)  # so that no interpolated value is clipped
    crop = RandomResizedCrop((20, 30))
    monkeypatch.setattr(crop, 'sample', lambda width, height: (10, 5, 33, 41) if (width, height) == (80, 60) else None)
    result = crop({'img': image})['img']
    assert result.size == (30, 20)
    separate = image.crop((10, 5, 43, 46)).resize((30, 20), Image.Resampling.BICUBIC)
    inner = (slice(3, -3), slice(3, -3))  # at the edge, the filter sees beyond the crop
    difference = np.abs(np.asarray(result, int) - np.asarray(separate, int))
    assert difference[inner].max() <= 1 and difference.max() < 10
    whole = RandomResizedCrop((60, 80), scale=(1, 1), ratio=(4 / 3, 4 / 3))({'img': image})['img']
    np.testing.assert_array_equal(whole, image)


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        ({'size': 0}, 'size=0 must be a number of pixels above 0'),
        ({'scale': (0.5, 0.1)}, 'scale=(0.5, 0.1) must be two numbers above 0, the smaller one first'),
        ({'scale': (0, 1)}, 'scale=(0, 1) must be two numbers above 0'),
        ({'scale': (0.5, 1.5)}, 'scale=(0.5, 1.5): a crop cannot be larger than the image'),
        ({'ratio': (1, float('nan'))}, 'ratio=(1, nan) must be two numbers above 0'),
        ({'ratio': (1,)}, 'ratio=(1,) must be two numbers'),
        ({'interpolation': 'area'}, "interpolation='area' must be one of"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        RandomResizedCrop(**{'size': 8, **arguments})


@pytest.mark.parametrize('fill', [0, (9, 8, 7)])
def test_random_crop_with_border(fill: int | tuple[int, ...]) -> None:
    image = noise(8, 6)
    crop = RandomCrop((6, 8), padding=2, fill=fill)
    bordered = np.full((10, 12, 3), fill, np.uint8)
    bordered[2:8, 2:10] = np.asarray(image)
    parts = {bordered[y : y + 6, x : x + 8].tobytes(): (y, x) for y in range(5) for x in range(5)}
    assert len(parts) == 25
    seen = {parts[np.asarray(crop({'img': image})['img']).tobytes()] for _ in range(400)}
    assert len(seen) == 25


def test_random_crop_without_border() -> None:
    image = noise(9, 7)
    seen = {np.asarray(RandomCrop((7, 8))({'img': image})['img']).tobytes() for _ in range(50)}
    assert seen == {np.asarray(image)[:, x : x + 8].tobytes() for x in range(2)}
    with pytest.raises(ValueError, match=re.escape('7 x 9 pixels (height x width) with padding=1 has no part of 10 x 9; resize before')):
        RandomCrop((10, 9), padding=1)({'img': image})
    with pytest.raises(ValueError, match='padding=-1 must be a number of pixels of 0 or more'):
        RandomCrop(4, padding=-1)
    for fill in (256, (1, 2), (0.5, 0, 0)):
        with pytest.raises(ValueError, match=re.escape(f'fill={fill!r} must be one whole number or three')):
            RandomCrop(4, fill=fill)


def test_random_flip() -> None:
    image = noise(5, 4)
    mirrored = np.asarray(image)[:, ::-1].tobytes()
    assert RandomFlip(prob=0)({'img': image})['img'] is image
    assert np.asarray(RandomFlip(prob=1)({'img': image})['img']).tobytes() == mirrored
    flips = [np.asarray(RandomFlip()({'img': image})['img']).tobytes() == mirrored for _ in range(1000)]
    assert 450 < sum(flips) < 550
    with pytest.raises(ValueError, match=r'prob=1.5 must be a probability in \[0, 1\]'):
        RandomFlip(prob=1.5)


def test_chance_is_seeded_by_python_alone() -> None:
    image = noise(40, 40)
    steps = [RandomCrop(30, padding=4), RandomFlip(), RandomResizedCrop(8)]

    def run() -> bytes:
        results = {'img': image}
        for step in steps:
            results = step(results)
        return results['img'].tobytes()

    random.seed(3)
    first = [run() for _ in range(4)]
    random.seed(3)
    assert [run() for _ in range(4)] == first
    assert len(set(first)) == 4


def test_repr_names_the_arguments() -> None:
    assert repr(RandomFlip(0.25)) == 'RandomFlip(prob=0.25)'
    assert repr(RandomCrop(3, fill=4)) == 'RandomCrop(size=(3, 3), padding=0, fill=(4, 4, 4))'
    assert 'scale=(0.5, 1)' in repr(RandomResizedCrop(3, scale=(0.5, 1)))
