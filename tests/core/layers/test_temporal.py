"""Temporal shift, and what it does to the feature branches."""

from __future__ import annotations

import pytest
import torch
from core_models import narrow_model, narrow_shadow, shadow_weights, standard_normal
from published_cnns import divisible, lite_rows, mobilenet_rows
from torch import Tensor

from dynperceiver.feature_branches import FEATURE_BRANCHES
from dynperceiver.layers import TemporalShift

FRAMES = 4


def _slow_shift(x: Tensor, num_frames: int, fold_div: int, bidirectional: bool) -> Tensor:
    """Channel by channel and frame by frame; the first folds come from the future, the next ones from the past."""
    fold = x.shape[1] // fold_div
    out = torch.empty_like(x)
    for row in range(x.shape[0]):
        clip, t = divmod(row, num_frames)
        for c in range(x.shape[1]):
            part = c // fold if fold else 2
            if bidirectional:
                source = t + 1 if part == 0 else t - 1 if part == 1 else t
            else:
                source = t - 1 if part == 0 else t
            inside = 0 <= source < num_frames
            out[row, c] = x[clip * num_frames + source, c] if inside else 0
    return out


@pytest.mark.parametrize('bidirectional', [True, False])
@pytest.mark.parametrize(('num_frames', 'channels', 'fold_div'), [(4, 16, 8), (3, 10, 3), (8, 24, 8), (1, 8, 4), (2, 8, 2), (4, 4, 8)])
def test_shift_equals_a_slow_loop(num_frames: int, channels: int, fold_div: int, bidirectional: bool) -> None:
    x = torch.randn(3 * num_frames, channels, 3, 5)
    shift = TemporalShift(num_frames, fold_div, bidirectional)
    expected = _slow_shift(x, num_frames, fold_div, bidirectional)
    before = x.clone()
    torch.testing.assert_close(shift(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(x, before, rtol=0, atol=0)
    last = x.contiguous(memory_format=torch.channels_last)
    assert shift(last).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(shift(last), expected, rtol=0, atol=0)


def test_exact_values() -> None:
    x = torch.tensor([[1.0, 10, 100, 1000], [2, 20, 200, 2000], [3, 30, 300, 3000]])[:, :, None, None]
    assert TemporalShift(3, 4)(x).squeeze().tolist() == [[2, 0, 100, 1000], [3, 10, 200, 2000], [0, 20, 300, 3000]]
    assert TemporalShift(3, 4, bidirectional=False)(x).squeeze().tolist() == [[0, 10, 100, 1000], [1, 20, 200, 2000], [2, 30, 300, 3000]]


def _sees(bidirectional: bool, frame: int) -> list[int]:
    """Rows of two clips that one row of the output depends on."""
    x = torch.randn(2 * FRAMES, 16, 2, 2, requires_grad=True)
    TemporalShift(FRAMES, 8, bidirectional)(x)[frame].sum().backward()
    return x.grad.abs().sum((1, 2, 3)).nonzero().flatten().tolist()


def test_unidirectional_sees_no_future_and_no_other_clip() -> None:
    assert [_sees(False, row) for row in range(8)] == [[0], [0, 1], [1, 2], [2, 3], [4], [4, 5], [5, 6], [6, 7]]
    assert [_sees(True, row) for row in range(8)] == [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3], [4, 5], [4, 5, 6], [5, 6, 7], [6, 7]]


@torch.no_grad()
def test_unidirectional_network_is_online() -> None:
    """Up to exit 1 and beyond, logits of a frame depend on no later frame."""
    model = narrow_model('resnet18', num_frames=FRAMES, temporal_shift='unidirectional')
    model.num_frames = 1  # per-frame logits
    clip = standard_normal((FRAMES, 3, 64, 64))
    other = clip.clone()
    other[2:] = standard_normal((2, 3, 64, 64), seed=1)
    for logits, changed in zip(model(clip), model(other), strict=True):
        torch.testing.assert_close(logits[:2], changed[:2])
        assert not torch.allclose(logits[2:], changed[2:])


def test_wrong_numbers() -> None:
    with pytest.raises(ValueError, match='num_frames=0: a clip has at least one frame'):
        TemporalShift(0)
    with pytest.raises(ValueError, match='fold_div=1: at most half of the channels can move each way; pass 2 or more'):
        TemporalShift(8, fold_div=1)
    with pytest.raises(ValueError, match='10 frames are no whole number of clips of 4 frames; sample 4 frames per clip'):
        TemporalShift(4)(torch.zeros(10, 8, 2, 2))


def test_no_frames_at_all() -> None:
    assert TemporalShift(4)(torch.zeros(0, 8, 2, 2)).shape == (0, 8, 2, 2)


def test_arguments_are_printed() -> None:
    assert repr(TemporalShift(8, bidirectional=False)) == 'TemporalShift(num_frames=8, fold_div=8, bidirectional=False)'


@pytest.mark.parametrize('name', FEATURE_BRANCHES)
def test_which_blocks_shift(name: str) -> None:
    """Every block; on MobileNet and EfficientNet-Lite those with an identity shortcut, by their published tables."""
    branch = narrow_shadow(name, num_frames=FRAMES, temporal_shift='bidirectional', shift_fold_div=4).feature_branch
    blocks = [module for module in branch.modules() if hasattr(module, 'shift')]
    shifted = [block.shift is not None for block in blocks]
    if name == 'mobilenet_v3_large':
        rows = [row for rows in mobilenet_rows() for row in rows]
        ins = [divisible(channels * 0.25) for channels in (16, *(row[2] for row in rows[:-1]))]
        assert shifted == [row[5] == 1 and divisible(row[2] * 0.25) == into for row, into in zip(rows, ins, strict=True)]
        assert 0 < sum(shifted) < len(shifted)
    elif name.startswith('efficientnet'):
        strides, outs = zip(*((row[1], row[3]) for rows in lite_rows(name, 0.25) for row in rows), strict=True)
        assert shifted == [stride == 1 and into == out for stride, into, out in zip(strides, (8, *outs), outs, strict=False)]
        assert 0 < sum(shifted) < len(shifted)
    else:
        assert all(shifted)
    for block in blocks:
        if block.shift is not None:
            assert (block.shift.num_frames, block.shift.fold_div, block.shift.bidirectional) == (FRAMES, 4, True)


@torch.no_grad()
@pytest.mark.parametrize('name', ['resnet18', 'resnet50', 'regnet_y_400mf', 'mobilenet_v3_large', 'efficientnet_lite0'])
def test_the_shift_is_on_the_residual_branch_only(name: str) -> None:
    """Feeding each residual branch the shifted map by hand gives the same; its shortcut sees the map as it is."""
    model = narrow_model(name, num_frames=FRAMES, temporal_shift='bidirectional')
    plain = narrow_model(name)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    blocks = {key: module for key, module in model.feature_branch.named_modules() if getattr(module, 'shift', None) is not None}
    for key, block in blocks.items():
        block.register_forward_pre_hook(lambda _module, args, key=key: inputs.update({key: args[0]}))
        block.register_forward_hook(lambda _module, _args, output, key=key: outputs.update({key: output}))
    model.pyramid(standard_normal((2 * FRAMES, 3, 64, 64)))
    assert len(inputs) == len(blocks) > 0
    for key, x in inputs.items():
        unshifted = plain.feature_branch.get_submodule(key)
        residual = unshifted.residual(_slow_shift(x, FRAMES, 8, bidirectional=True))
        if name.startswith(('mobilenet', 'efficientnet')):
            expected = x + residual
        else:
            project = unshifted.proj if name.startswith('regnet') else unshifted.downsample
            expected = ((x if project is None else project(x)) + residual).clamp(min=0)
        torch.testing.assert_close(outputs[key], expected, msg=key)


@pytest.mark.parametrize('name', FEATURE_BRANCHES)
def test_image_checkpoints_fit_with_and_without_shift(name: str) -> None:
    shapes = [
        {key: value.shape for key, value in shadow_weights(name, num_frames=8, temporal_shift=shift).items()}
        for shift in (None, 'bidirectional', 'unidirectional')
    ]
    image = {key: value.shape for key, value in shadow_weights(name).items()}
    assert all(list(video.items()) == list(image.items()) for video in shapes)
