"""RandAugment as a whole: what it draws, and that every image gets what was drawn for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import kornia
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor

import dynperceiver_cls
from dynperceiver_cls.batch_augments import OPERATIONS, RandAugment

NAMES = list(OPERATIONS)
AMOUNTS = {  # operation -> amounts for magnitudes 0, 9, 10 with sign 1, and for 9 with sign -1
    'Rotate': [0, 27, 30, -27],
    'Posterize': [4, 1, 0, 1],
    'Solarize': [256, 26, 0, 26],
    'SolarizeAdd': [0, 99, 110, 99],
    'Color': [1, 1.81, 1.9, 0.19],
    'Contrast': [1, 1.81, 1.9, 0.19],
    'Brightness': [1, 1.81, 1.9, 0.19],
    'Sharpness': [1, 1.81, 1.9, 0.19],
    'ShearX': [0, 0.27, 0.3, -0.27],
    'ShearY': [0, 0.27, 0.3, -0.27],
    'TranslateX': [0, 0.405, 0.45, -0.405],
    'TranslateY': [0, 0.405, 0.45, -0.405],
}


def _amounts(name: str, magnitudes: list[float], signs: list[int], increasing: bool) -> list[float]:
    shares = torch.tensor(magnitudes, dtype=torch.float64) / 10
    return OPERATIONS[name].amount(shares, torch.tensor(signs), increasing).tolist()


@pytest.mark.parametrize('name', AMOUNTS)
def test_amounts_are_the_recipes(name: str) -> None:
    assert _amounts(name, [0, 9, 10, 9], [1, 1, 1, -1], True) == pytest.approx(AMOUNTS[name])


def test_amounts_that_do_not_increase() -> None:
    assert _amounts('Posterize', [0, 9, 10], [1, 1, -1], False) == [0, 3, 4]
    assert _amounts('Solarize', [0, 9, 10], [1, 1, -1], False) == [0, 230, 256]
    for name in ('Color', 'Contrast', 'Brightness', 'Sharpness'):
        assert _amounts(name, [0, 5, 10], [1, -1, -1], False) == pytest.approx([0.1, 1, 1.9])


def test_the_default_is_the_recipe() -> None:
    assert repr(RandAugment()) == (
        'RandAugment(num_ops=2, magnitude=9, magnitude_std=0.5, prob=0.5, increasing=True, fill=(124, 116, 104), '
        "interpolation='bicubic')"
    )


def test_rates() -> None:
    torch.manual_seed(1)
    operations, applied, magnitudes, signs = RandAugment(num_ops=3, prob=0.5).draw(20000)
    assert operations.shape == applied.shape == magnitudes.shape == signs.shape == (3, 20000)
    frequencies = torch.bincount(operations.flatten(), minlength=15) / operations.numel()
    torch.testing.assert_close(frequencies, torch.full((15,), 1 / 15), rtol=0, atol=0.004)  # standard error 0.001
    for number in range(15):
        assert applied[operations == number].float().mean() == pytest.approx(0.5, abs=0.03)  # standard error 0.008
    assert signs.unique().tolist() == [-1, 1]
    assert signs.float().mean() == pytest.approx(0, abs=0.02)
    # With replacement, and the steps are independent of each other; so are what is done and whether.
    assert (operations[0] == operations[1]).float().mean() == pytest.approx(1 / 15, abs=0.008)
    assert (applied[0] & applied[1]).float().mean() == pytest.approx(0.25, abs=0.015)
    assert (applied & (signs > 0)).float().mean() == pytest.approx(0.25, abs=0.01)
    assert magnitudes.max() == 10
    assert (magnitudes == 10).float().mean() == pytest.approx(0.0228, abs=0.004)  # 2 standard deviations above the mean
    assert magnitudes.median() == pytest.approx(9, abs=0.02)


def test_magnitudes_have_mean_and_deviation() -> None:
    torch.manual_seed(2)
    magnitudes = RandAugment(magnitude=5, magnitude_std=0.5).draw(20000)[2]
    assert magnitudes.mean() == pytest.approx(5, abs=0.02)
    assert magnitudes.std() == pytest.approx(0.5, abs=0.01)
    assert torch.corrcoef(magnitudes)[0, 1].abs() < 0.03  # one of its own for every operation
    assert RandAugment(magnitude=0.5, magnitude_std=1).draw(1000)[2].min() == 0
    assert (RandAugment(magnitude=7, magnitude_std=0).draw(10)[2] == 7).all()


@pytest.mark.parametrize('prob', [0.3, 1.0])
def test_prob(prob: float) -> None:
    assert RandAugment(prob=prob).draw(20000)[1].float().mean() == pytest.approx(prob, abs=0.015)


def test_every_image_gets_its_own_operations(images_BCHW: Tensor, pillow: Callable[..., Tensor]) -> None:
    """Image by image and in order with Pillow; where one operation is 1 grey level off, the next may make more of it."""
    augment = RandAugment(interpolation='nearest')
    images = images_BCHW.repeat(16, 1, 1, 1)
    torch.manual_seed(3)
    result = augment(images)
    torch.manual_seed(3)
    plans = [tensor.T for tensor in augment.draw(len(images))]
    names = set()
    for number, (operations, applied, magnitudes, signs) in enumerate(zip(*plans, strict=True)):
        expected = images[number : number + 1]
        for operation, magnitude, sign in zip(operations[applied], magnitudes[applied], signs[applied], strict=True):
            names.add(NAMES[operation])
            amount = OPERATIONS[NAMES[operation]].amount(magnitude.view(1) / 10, sign.view(1), True)
            expected = pillow(NAMES[operation], expected, amount, 'nearest')
        different = (result[number] - expected[0]).abs()
        assert different.mean() < 0.5, number
        assert applied.sum() > 1 or (different > 1).float().mean() < 0.001, number
    assert len(names) > 12


def test_all_images_of_an_operation_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[str, list[int]] = {name: [] for name in NAMES}
    for name, operation in list(OPERATIONS.items()):

        def recorded(images: Tensor, *arguments: Any, _name: str = name, _apply: Any = operation.apply) -> Tensor:
            sizes[_name].append(len(images))
            return _apply(images, *arguments)

        monkeypatch.setitem(OPERATIONS, name, type(operation)(recorded, operation.amount, operation.geometric))
    RandAugment(num_ops=2, prob=1)(torch.zeros(60, 3, 8, 8))
    assert all(len(batches) <= 2 for batches in sizes.values())
    assert sum(map(sum, sizes.values())) == 120


def test_nothing_is_applied_with_prob_0(images_BCHW: Tensor) -> None:
    result = RandAugment(prob=0)(images_BCHW)
    assert torch.equal(result, images_BCHW)
    assert result.data_ptr() != images_BCHW.data_ptr()


@pytest.mark.parametrize('memory_format', [torch.channels_last, torch.contiguous_format])
def test_layout_is_kept_and_the_input_is_left(images_BCHW: Tensor, memory_format: torch.memory_format) -> None:
    images = images_BCHW.contiguous(memory_format=memory_format)
    before = images.clone()
    result = RandAugment(prob=1)(images)
    assert result.is_contiguous(memory_format=memory_format)
    assert result.dtype == torch.float32
    assert result.shape == images.shape
    assert torch.equal(images, before)
    assert not torch.equal(result, images)
    torch.manual_seed(4)
    first = RandAugment()(images)
    torch.manual_seed(4)
    assert torch.equal(first, RandAugment()(images_BCHW))


@pytest.mark.parametrize('size', [(1, 3, 24, 32), (1, 3, 31, 7), (3, 3, 1, 1), (0, 3, 8, 8)])
def test_batch_sizes_and_shapes(size: tuple[int, ...]) -> None:
    augment, images = RandAugment(prob=1), torch.randint(256, size).float()
    for seed in range(12):
        torch.manual_seed(seed)
        result = augment(images)
        assert result.shape == size
        assert torch.isfinite(result).all()


def test_levels_are_rounded_as_in_8_bit() -> None:
    images = torch.tensor([-3.0, 0.4, 0.6, 254.6, 260.0, 100.0]).view(1, 1, 2, 3).expand(1, 3, 2, 3)
    assert RandAugment(prob=0)(images)[0, 0].flatten().tolist() == [0, 0, 1, 255, 255, 100]


def test_torchs_seed_and_nothing_else_decides(images_BCHW: Tensor) -> None:
    augment = RandAugment()
    torch.manual_seed(5)
    first = augment(images_BCHW)
    other = augment(images_BCHW)
    torch.manual_seed(5)
    random.seed(99)
    np.random.seed(99)
    assert torch.equal(augment(images_BCHW), first)
    assert not torch.equal(first, other)


def test_nothing_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the meta device have no values: asking for one raises. Kornia 0.8 does for every image of three operations."""
    if kornia.__version__.startswith('0.8.'):
        for name in ('Equalize', 'Posterize', 'Sharpness'):
            monkeypatch.setitem(OPERATIONS, name, OPERATIONS['Invert'])
    augment = RandAugment(num_ops=6, prob=1).to('meta')
    result = augment(torch.empty(64, 3, 16, 16, device='meta'))
    assert result.device.type == 'meta'
    assert result.shape == (64, 3, 16, 16)


def test_it_is_found_from_any_scope_and_has_no_state() -> None:
    augment = MMENGINE_MODELS.build({'type': 'dynperceiver_cls.RandAugment', 'num_ops': 1})
    assert type(augment) is RandAugment is dynperceiver_cls.batch_augments.RandAugment
    assert augment.num_ops == 1
    assert augment.state_dict() == {}


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        ({'num_ops': 0}, 'num_ops=0: at least 1'),
        ({'magnitude': 10.5}, 'magnitude=10.5: a number from 0 to 10'),
        ({'magnitude': -1}, 'magnitude=-1: a number from 0 to 10'),
        ({'magnitude_std': -0.1}, 'magnitude_std=-0.1: a number of at least 0'),
        ({'prob': 1.1}, 'prob=1.1: a probability'),
        ({'fill': (1, 2)}, r'fill=\(1, 2\): three grey levels'),
        ({'fill': (1, 2, 256)}, r'fill=\(1, 2, 256\): three grey levels'),
        ({'interpolation': 'area'}, "interpolation='area': choose one of nearest, bilinear, bicubic"),
    ],
)
def test_arguments_outside_their_range(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        RandAugment(**arguments)


@pytest.mark.parametrize('images', [torch.zeros(3, 8, 8), torch.zeros(2, 1, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)])
def test_other_tensors_than_float_rgb_batches(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r'float RGB images.*before_norm'):
        RandAugment()(images)
