"""What the builder refuses, and how it says so: value, rule and remedy."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dynperceiver import build_model

GOOD: dict[str, Any] = {'feature_branch': 'resnet18', 'width': 0.125, 'num_latents': 16, 'depth_factors': (1, 1, 1, 1), 'num_classes': 5}


def _refused(pattern: str, **changes: Any) -> None:
    with pytest.raises(ValueError, match=pattern):
        build_model(**{**GOOD, **changes})


def test_unknown_branch() -> None:
    _refused(r"feature_branch='resnet51' is unknown; did you mean resnet50 .*Choose one of: resnet18, resnet34", feature_branch='resnet51')


@pytest.mark.parametrize('num_latents', [0, -8, 4, 12, 100, 127])
def test_num_latents_not_a_multiple_of_8(num_latents: int) -> None:
    _refused(rf'num_latents={num_latents} is not divisible by 8: three token mixers.*example 32, 64, 128', num_latents=num_latents)


@pytest.mark.parametrize('depth_factors', [(1, 1, 1), (1, 1, 1, 1, 2), (), 'abcd', 1])
def test_number_of_depth_factors(depth_factors: Any) -> None:
    _refused(r'depth_factors=.*one factor for each of the four stages is needed, for example \(1, 1, 1, 2\)', depth_factors=depth_factors)


@pytest.mark.parametrize('depth_factors', [(1, 1, 1, 0.5), (0, 1, 1, 1), (1, 1, -1, 1), (1, 1.2, 1, 1)])
def test_depths_that_are_no_whole_numbers(depth_factors: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match='whole number of at least 1, for example') as caught:
        build_model(**{**GOOD, 'depth_factors': depth_factors})
    assert f'depth_factors={depth_factors}' in str(caught.value)
    assert 'times (3, 3, 9, 3)' in str(caught.value)


def test_depth_factors_multiply_3_3_9_3() -> None:
    with torch.device('meta'):
        model = build_model(**{**GOOD, 'depth_factors': [1 / 3, 2, 2 / 3, 3]})
    assert [len(blocks) for blocks in model.latent_branch.blocks] == [1, 6, 6, 9]


def test_width() -> None:
    _refused(r'width=0\.3 for resnet18: .*multiple of 0\.125', width=0.3)
    _refused(r'width=0\.5 for regnet_y_800mf: RegNetY has no width', feature_branch='regnet_y_800mf', width=0.5)


def test_heads_must_divide_the_channels() -> None:
    from dynperceiver.layers import SelfAttentionLayer

    with pytest.raises(ValueError, match=r'12 attention channels cannot be split over 8 heads; .*multiple of 8'):
        SelfAttentionLayer(12, num_heads=8)


def test_num_classes_and_num_frames() -> None:
    _refused('num_classes=0: pass the number of classes, or None', num_classes=0)
    _refused('num_frames=0: a clip has at least one frame', num_frames=0)


def test_numbers_are_keywords() -> None:
    with pytest.raises(TypeError):
        build_model('resnet18', 0.125, 16, (1, 1, 1, 1))
    with pytest.raises(TypeError, match='num_latents'):
        build_model('resnet18', depth_factors=(1, 1, 1, 1))


@pytest.mark.parametrize('shape', [(3, 64, 64), (2, 3, 4, 64, 64)])
def test_input_must_be_a_batch_of_images(shape: tuple[int, ...]) -> None:
    with torch.device('meta'):
        model = build_model(**GOOD)
    with pytest.raises(ValueError, match=r'pass images as \(B, 3, H, W\)') as caught:
        model(torch.zeros(shape, device='meta'))
    assert str(shape) in str(caught.value)
