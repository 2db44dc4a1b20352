"""Random erasing: which images, which rectangles, and what comes into them."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS as MMENGINE_MODELS

from dynperceiver_cls.batch_augments import RandomErasing

NUM_DRAWN = 20000


def test_rates_of_the_recipe() -> None:
    torch.manual_seed(1)
    index, boxes = RandomErasing().draw(NUM_DRAWN, 224, 224)
    assert len(index) / NUM_DRAWN == pytest.approx(0.25, abs=0.012)  # standard error 0.003
    assert index.unique().equal(index)
    top, left, bottom, right = boxes.double().unbind(1)
    assert min(top.min(), left.min()) >= 0
    assert max(bottom.max(), right.max()) <= 224
    heights, widths = bottom - top, right - left
    assert max(heights.max(), widths.max()) < 224
    shares, ratios = heights * widths / 224**2, (heights / widths).log()
    assert 0.019 < shares.min() < 0.021  # sides are rounded to whole pixels
    assert 0.33 < shares.max() < 0.336
    assert shares.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.005)
    assert shares.std() == pytest.approx((1 / 3 - 0.02) / math.sqrt(12), abs=0.003)
    # Uniform in the logarithm, but for the few that do not fit; a uniform ratio would have its mean logarithm at 0.48.
    assert ratios.mean() == pytest.approx((math.log(0.3) + math.log(3.3)) / 2, abs=0.03)
    assert ratios.std() == pytest.approx((math.log(3.3) - math.log(0.3)) / math.sqrt(12), abs=0.02)
    for first, size in ((top, heights), (left, widths)):
        places = (first + 0.5) / (224 - size + 1)
        assert places.mean() == pytest.approx(0.5, abs=0.015)
        assert places.std() == pytest.approx(1 / math.sqrt(12), abs=0.01)
        assert (first == 0).any()
        assert (first + size == 224).any()


def test_settings_reach_the_rectangles() -> None:
    index, boxes = RandomErasing(prob=1, area=(0.1, 0.1), ratio=(4, 4)).draw(50, 100, 200)
    assert index.tolist() == list(range(50))
    sizes = boxes[:, 2:] - boxes[:, :2]
    assert sizes.unique(dim=0).tolist() == [[89, 22]]  # sqrt(2000 * 4), sqrt(2000 / 4)
    assert not len(RandomErasing(prob=0).draw(50, 100, 200)[0])


def test_a_rectangle_that_does_not_fit_is_drawn_again() -> None:
    """Half of these ratios are too high for the image; with one attempt half of the images would stay whole."""
    index, boxes = RandomErasing(prob=1, area=(0.25, 0.25), ratio=(1, 16)).draw(2000, 60, 60)
    assert len(index) > 1990
    assert (boxes[:, 2] - boxes[:, 0]).max() < 60
    assert not len(RandomErasing(prob=1, area=(0.9, 0.9), ratio=(3, 3)).draw(100, 60, 60)[0])


@pytest.mark.parametrize('mode', ['pixel', 'const'])
@pytest.mark.parametrize('memory_format', [torch.channels_last, torch.contiguous_format])
def test_only_the_rectangle_changes(mode: str, memory_format: torch.memory_format) -> None:
    erase = RandomErasing(prob=0.6, mode=mode)
    images = torch.full((12, 3, 40, 56), 7.0).contiguous(memory_format=memory_format)
    torch.manual_seed(2)
    erased = erase(images)
    torch.manual_seed(2)
    inside = torch.zeros(12, 1, 40, 56, dtype=torch.bool)
    index, boxes = erase.draw(12, 40, 56)
    assert 0 < len(index) < 12
    for number, (top, left, bottom, right) in zip(index.tolist(), boxes.tolist(), strict=True):
        inside[number, :, top:bottom, left:right] = True
    assert torch.equal((erased != 7).any(1, keepdim=True), inside)
    assert (images == 7).all()
    assert erased.is_contiguous(memory_format=memory_format)
    assert erased.dtype == torch.float32
    filled = erased.masked_select(inside)
    if mode == 'const':
        assert (filled == 0).all()
    else:
        assert filled.mean() == pytest.approx(0, abs=0.05)
        assert filled.std() == pytest.approx(1, abs=0.05)
        assert len(filled.unique()) > 0.99 * len(filled)  # drawn for every pixel and channel


@pytest.mark.parametrize('size', [(1, 3, 30, 20), (1, 3, 1, 1), (0, 3, 8, 8)])
def test_batch_sizes_and_shapes(size: tuple[int, ...]) -> None:
    erased = RandomErasing(prob=1)(torch.full(size, 9.0))
    assert erased.shape == size
    assert bool((erased != 9).any()) is (size == (1, 3, 30, 20))


def test_torchs_seed_and_nothing_else_decides() -> None:
    images, erase = torch.zeros(8, 3, 32, 32), RandomErasing(prob=1)
    torch.manual_seed(3)
    first, other = erase(images), erase(images)
    torch.manual_seed(3)
    random.seed(99)
    np.random.seed(99)
    assert torch.equal(erase(images), first)
    assert not torch.equal(first, other)


def test_nothing_waits_for_the_device() -> None:
    """Tensors of the meta device have no values: asking for one raises."""
    assert RandomErasing(prob=1)(torch.empty(8, 3, 32, 32, device='meta')).shape == (8, 3, 32, 32)


def test_it_is_found_from_any_scope_and_says_what_it_does() -> None:
    erase = MMENGINE_MODELS.build({'type': 'dynperceiver_cls.RandomErasing', 'area': (0.02, 0.4)})
    assert repr(erase) == "RandomErasing(prob=0.25, area=(0.02, 0.4), ratio=(0.3, 3.3), mode='pixel')"
    assert RandomErasing().area == (0.02, 1 / 3)


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        ({'prob': -0.1}, 'prob=-0.1: a probability'),
        ({'prob': 1.5}, 'prob=1.5: a probability'),
        ({'area': (0.5, 0.1)}, r'area=\(0.5, 0.1\): the smallest and the largest share'),
        ({'area': (0, 0.1)}, r'area=\(0, 0.1\)'),
        ({'area': (0.1, 1.1)}, r'area=\(0.1, 1.1\)'),
        ({'ratio': (2, 1)}, r'ratio=\(2, 1\): the smallest and the largest height / width'),
        ({'ratio': (0, 1)}, r'ratio=\(0, 1\)'),
        ({'mode': 'noise'}, "mode='noise': choose 'pixel'"),
    ],
)
def test_arguments_outside_their_range(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        RandomErasing(**arguments)


def test_other_tensors_than_float_batches() -> None:
    with pytest.raises(ValueError, match=r'uint8.*after_norm'):
        RandomErasing()(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match='after_norm'):
        RandomErasing()(torch.zeros(3, 8, 8))
