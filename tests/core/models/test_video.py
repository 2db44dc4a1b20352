"""Clips: frames run as images, exits average over the frames, what is handed on stays per frame."""

from __future__ import annotations

import pytest
import torch
from core_models import narrow_model, shared_narrow_model, standard_normal

FRAMES = 4
BRANCHES = ('resnet18', 'regnet_y_400mf', 'mobilenet_v3_large')


@torch.no_grad()
@pytest.mark.parametrize('name', BRANCHES)
def test_video_logits_are_the_mean_over_frames(name: str) -> None:
    frames = standard_normal((3 * FRAMES, 3, 64, 64))
    video = narrow_model(name, num_frames=FRAMES)(frames)
    per_frame = shared_narrow_model(name)(frames)
    for clip_logits, logits in zip(video, per_frame, strict=True):
        assert clip_logits.shape == (3, 5)
        means = torch.stack([logits[clip * FRAMES : (clip + 1) * FRAMES].mean(0) for clip in range(3)])
        torch.testing.assert_close(clip_logits, means)


@torch.no_grad()
@pytest.mark.parametrize('name', BRANCHES)
def test_transferred_logits_stay_per_frame(name: str) -> None:
    frames = standard_normal((2 * FRAMES, 3, 64, 64))
    model = narrow_model(name, num_frames=FRAMES)
    per_frame = shared_narrow_model(name)(frames)
    state = model.start(frames)
    assert state.num_samples == 2
    handed_on = [per_frame[0], per_frame[1], per_frame[1], per_frame[1]]
    for segment, expected in zip(model.segments, handed_on, strict=True):
        _, state = segment(state)
        torch.testing.assert_close(state.previous_logits_BK, expected)


@torch.no_grad()
@pytest.mark.parametrize('name', BRANCHES)
def test_narrowing_keeps_whole_clips(name: str) -> None:
    frames = standard_normal((3 * FRAMES, 3, 64, 64))
    model = narrow_model(name, num_frames=FRAMES, temporal_shift='bidirectional')
    whole = model(frames)
    loop_state = model.start(frames)
    _, loop_state = model.segments[0](loop_state)
    loop_state = loop_state.select(torch.tensor([True, False, True]))
    for k in (1, 2, 3):
        logits, loop_state = model.segments[k](loop_state)
        torch.testing.assert_close(logits, whole[k][[0, 2]], rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_no_clips_at_all() -> None:
    model = narrow_model(num_frames=FRAMES, temporal_shift='bidirectional')
    assert [logits.shape for logits in model(standard_normal((0, 3, 64, 64)))] == [(0, 5)] * 4


@torch.no_grad()
def test_shift_connects_the_frames_of_a_clip_and_no_others() -> None:
    model = narrow_model(num_frames=FRAMES, temporal_shift='bidirectional')
    frames = standard_normal((2 * FRAMES, 3, 64, 64))
    changed = frames.clone()
    changed[0] = 0
    for logits, others in zip(model(frames), model(changed), strict=True):
        torch.testing.assert_close(logits[1], others[1], rtol=1e-10, atol=1e-10)
        assert not torch.allclose(logits[0], others[0])
    still = narrow_model(num_frames=FRAMES)
    reordered = frames.view(2, FRAMES, 3, 64, 64).flip(1).flatten(0, 1)
    for logits, same in zip(still(frames), still(reordered), strict=True):
        torch.testing.assert_close(logits, same)
    for logits, other in zip(model(frames), model(reordered), strict=True):
        assert not torch.allclose(logits, other), 'with the shift the order of the frames counts'


def test_frames_that_make_no_whole_clips() -> None:
    model = narrow_model(num_frames=FRAMES)
    with pytest.raises(ValueError, match=r'input of shape \(6, 3, 64, 64\): .*B = clips \* 4'):
        model(standard_normal((6, 3, 64, 64)))
