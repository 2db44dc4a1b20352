"""Sizes, places and filters of resizing and cropping."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_images import noise

from dynperceiver_cls.transforms import CenterCrop, Resize


@pytest.mark.parametrize(
    ('size', 'short_edge', 'expected'),
    [
        ((500, 375), 256, (341, 256)),
        ((375, 500), 256, (256, 341)),
        ((300, 300), 256, (256, 256)),
        ((640, 427), 256, (383, 256)),
        ((10, 100), 256, (256, 2560)),
    ],
)
def test_short_edge(size: tuple[int, int], short_edge: int, expected: tuple[int, int]) -> None:
    assert Resize(short_edge=short_edge)({'img': Image.new('RGB', size)})['img'].size == expected


def test_size_is_height_and_width() -> None:
    image = noise(9, 7)
    assert Resize(size=(4, 6))({'img': image})['img'].size == (6, 4)
    assert Resize(size=5)({'img': image})['img'].size == (5, 5)
    assert Resize(size=(7, 9))({'img': image})['img'] is image


def test_filter() -> None:
    image = noise(64, 64)
    assert np.asarray(Resize(size=4)({'img': image})['img'], float).std() < 12  # 74 without a filter that widens
    for name in ('nearest', 'bilinear', 'bicubic', 'lanczos'):
        expected = image.resize((40, 30), Image.Resampling[name.upper()])
        np.testing.assert_array_equal(Resize(size=(30, 40), interpolation=name)({'img': image})['img'], expected)
    np.testing.assert_array_equal(Resize(size=40)({'img': image})['img'], image.resize((40, 40), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        ({}, 'size=None, short_edge=None: give exactly one'),
        ({'size': 4, 'short_edge': 4}, 'size=4, short_edge=4: give exactly one'),
        ({'size': (4, 0)}, 'size=(4, 0) must be a number of pixels above 0'),
        ({'size': (4, 4, 3)}, 'size=(4, 4, 3) must be a number of pixels above 0'),
        ({'size': 4.0 * np.ones(2)}, 'must be a number of pixels above 0'),
        ({'short_edge': -1}, 'short_edge=-1 must be a number of pixels above 0'),
        ({'size': 4, 'interpolation': 'cubic'}, "interpolation='cubic' must be one of nearest, bilinear, bicubic, lanczos"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        Resize(**arguments)


def test_center_crop() -> None:
    image = noise(341, 256)
    pixels = np.asarray(image)
    np.testing.assert_array_equal(CenterCrop(224)({'img': image})['img'], pixels[16:240, 58:282])
    np.testing.assert_array_equal(CenterCrop((2, 341))({'img': image})['img'], pixels[127:129])
    with pytest.raises(ValueError, match=re.escape('256 x 341 pixels (height x width) has no centre of 257 x 4; resize before cropping')):
        CenterCrop((257, 4))({'img': image})


def test_repr_names_the_arguments() -> None:
    assert repr(Resize(size=(3, 4))) == "Resize(size=(3, 4), short_edge=None, interpolation='bicubic')"
    assert repr(CenterCrop(3)) == 'CenterCrop(size=(3, 3))'
