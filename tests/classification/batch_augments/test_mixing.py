"""Mixup and cutmix: what is drawn, the mixture, and that its targets say the same as its pixels."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor

from dynperceiver_cls.batch_augments import MixupCutmix

NUM_CLASSES = 5
LABELS = torch.tensor([0, 3, 4, 3])


def _smoothed(labels: Tensor, eps: float = 0.1) -> Tensor:
    targets = torch.full((len(labels), NUM_CLASSES), eps / NUM_CLASSES)
    for row, label in enumerate(labels.tolist()):
        targets[row, label] = 1 - eps + eps / NUM_CLASSES
    return targets


def _draws(count: int = 4000, **arguments: Any) -> tuple[np.ndarray, list[tuple[int, int, int, int] | None]]:
    mix = MixupCutmix(NUM_CLASSES, **arguments)
    drawn = [mix.draw(200, 300) for _ in range(count)]
    return np.array([lam for lam, _ in drawn]), [box for _, box in drawn]


def test_rates_of_the_recipe() -> None:
    torch.manual_seed(1)
    lams, boxes = _draws()
    assert np.mean([box is not None for box in boxes]) == pytest.approx(0.5, abs=0.03)  # standard error 0.008
    assert (lams < 1).mean() > 0.99  # every batch, but for boxes of no area


@pytest.mark.parametrize('alpha', [0.8, 0.2, 3.0])
def test_mixups_lambda_is_beta(alpha: float) -> None:
    torch.manual_seed(2)
    lams, boxes = _draws(mixup_alpha=alpha, cutmix_alpha=0)
    assert set(boxes) == {None}
    assert lams.mean() == pytest.approx(0.5, abs=0.025)
    assert lams.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


@pytest.mark.parametrize('alpha', [1.0, 0.3])
def test_cutmix_boxes(alpha: float) -> None:
    """Against NumPy: a box of the share 1 - lambda around a uniform centre, cut off at the border, and the share that is left."""
    torch.manual_seed(3)
    lams, boxes = _draws(mixup_alpha=0, cutmix_alpha=alpha)
    corners = np.array(boxes)
    heights, widths = corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]
    assert corners.min() >= 0
    assert corners[:, 2].max() == 200
    assert corners[:, 3].max() == 300
    np.testing.assert_allclose(lams, 1 - heights * widths / 60000, atol=1e-12)
    rng = np.random.default_rng(0)
    side = np.sqrt(1 - rng.beta(alpha, alpha, 200000))
    for sizes, length in ((heights, 200), (widths, 300)):
        centre = rng.uniform(0, 1, len(side))
        expected = np.minimum(centre + side / 2, 1) - np.maximum(centre - side / 2, 0)
        assert sizes.mean() / length == pytest.approx(expected.mean(), abs=0.02)
        assert sizes.std() / length == pytest.approx(expected.std(), abs=0.015)
    inner = (corners[:, 0] > 0) & (corners[:, 2] < 200) & (corners[:, 1] > 0) & (corners[:, 3] < 300)
    np.testing.assert_allclose(heights[inner] / 200, widths[inner] / 300, atol=0.011)  # of the image's shape
    middle = (corners[:, 0] + corners[:, 2])[inner & (heights < 20)] / 400
    assert middle.mean() == pytest.approx(0.5, abs=0.06)
    assert middle.std() == pytest.approx(1 / np.sqrt(12), abs=0.04)


@pytest.mark.parametrize(('prob', 'switch_prob'), [(0.3, 0.5), (1, 0.2), (1, 0), (1, 1)])
def test_probabilities(prob: float, switch_prob: float) -> None:
    torch.manual_seed(4)
    lams, boxes = _draws(2000, prob=prob, switch_prob=switch_prob)
    assert np.mean([box is not None for box in boxes]) == pytest.approx(prob * switch_prob, abs=0.04)
    assert (lams < 1).mean() == pytest.approx(prob, abs=0.05)


@pytest.mark.parametrize('memory_format', [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize('kind', ['mixup', 'cutmix'])
@pytest.mark.parametrize('batch_size', [1, 3, 4])
def test_pixels_and_targets(kind: str, batch_size: int, memory_format: torch.memory_format) -> None:
    mix = MixupCutmix(NUM_CLASSES, **{'cutmix_alpha' if kind == 'mixup' else 'mixup_alpha': 0})
    images = torch.randn(batch_size, 3, 20, 30).contiguous(memory_format=memory_format)
    labels, before = LABELS[:batch_size], images.clone()
    for seed in range(4):
        torch.manual_seed(seed)
        mixed, targets = mix(images, labels)
        torch.manual_seed(seed)
        lam, box = mix.draw(20, 30)
        others = torch.stack(list(images)[::-1])
        own = torch.full((20, 30), lam)
        if box is not None:
            own[:] = 1
            own[box[0] : box[2], box[1] : box[3]] = 0
            assert float(own.mean()) == pytest.approx(lam)
        torch.testing.assert_close(mixed, images * own + others * (1 - own))
        torch.testing.assert_close(targets, lam * _smoothed(labels) + (1 - lam) * _smoothed(labels.flip(0)))
        torch.testing.assert_close(targets.sum(1), torch.ones(batch_size))
        assert targets.dtype == mixed.dtype == torch.float32
        assert mixed.is_contiguous(memory_format=memory_format)
    assert torch.equal(images, before)


@pytest.mark.parametrize('eps', [0.0, 0.1, 0.4])
def test_a_batch_that_is_not_mixed_has_smoothed_labels(eps: float) -> None:
    images = torch.randn(4, 3, 8, 8)
    mixed, targets = MixupCutmix(NUM_CLASSES, prob=0, label_smoothing=eps)(images, LABELS)
    assert torch.equal(mixed, images)
    assert mixed.data_ptr() != images.data_ptr()
    torch.testing.assert_close(targets, _smoothed(LABELS, eps))


def test_torchs_seed_and_nothing_else_decides() -> None:
    mix, images = MixupCutmix(NUM_CLASSES), torch.randn(4, 3, 16, 16)
    torch.manual_seed(5)
    first, other = mix(images, LABELS), mix(images, LABELS)
    torch.manual_seed(5)
    random.seed(99)
    np.random.seed(99)
    for one, again, different in zip(first, mix(images, LABELS), other, strict=True):
        assert torch.equal(one, again)
        assert not torch.equal(one, different)


@pytest.mark.parametrize('switch_prob', [0, 1])
def test_nothing_waits_for_the_device(switch_prob: float) -> None:
    """Tensors of the meta device have no values: asking for one raises."""
    images, labels = torch.empty(4, 3, 16, 16, device='meta'), torch.empty(4, dtype=torch.int64, device='meta')
    mixed, targets = MixupCutmix(NUM_CLASSES, switch_prob=switch_prob)(images, labels)
    assert mixed.shape == images.shape
    assert targets.shape == (4, NUM_CLASSES)
    assert targets.device.type == 'meta'


def test_it_is_found_from_any_scope_and_says_what_it_does() -> None:
    mix = MMENGINE_MODELS.build({'type': 'dynperceiver_cls.MixupCutmix', 'num_classes': 1000})
    assert repr(mix) == (
        'MixupCutmix(num_classes=1000, mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, label_smoothing=0.1)'
    )


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        ({'num_classes': 1}, 'num_classes=1: at least 2'),
        ({'mixup_alpha': -1}, 'mixup_alpha=-1: a number of at least 0'),
        ({'cutmix_alpha': float('nan')}, 'cutmix_alpha=nan: a number of at least 0'),
        ({'mixup_alpha': 0, 'cutmix_alpha': 0}, 'at least one must be above 0; to smooth labels only'),
        ({'prob': 1.1}, 'prob=1.1: a probability'),
        ({'switch_prob': -0.5}, 'switch_prob=-0.5: a probability'),
        ({'label_smoothing': 1}, 'label_smoothing=1: a number from 0 to below 1'),
    ],
)
def test_arguments_outside_their_range(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        MixupCutmix(**{'num_classes': 10, **arguments})


@pytest.mark.parametrize('labels', [LABELS[:3], LABELS.float(), torch.zeros(4, NUM_CLASSES)])
def test_other_labels_than_class_numbers(labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r'for 4 images: one class number \(int64\) per image'):
        MixupCutmix(NUM_CLASSES)(torch.zeros(4, 3, 8, 8), labels)
