"""The state that travels between segments."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dynperceiver import NetworkState


def _state(num_samples: int, num_frames: int = 1, channels_last: bool = False) -> NetworkState:
    rows = num_samples * num_frames
    feature = torch.arange(rows * 24.0).reshape(rows, 2, 3, 4)
    return NetworkState(
        feature.contiguous(memory_format=torch.channels_last) if channels_last else feature,
        latent_BNC=torch.arange(rows * 6.0).reshape(rows, 3, 2),
        previous_logits_BK=torch.arange(rows * 5.0).reshape(rows, 5),
        num_frames=num_frames,
        pyramid=(feature + 1, feature[:, :, :1] + 2),
    )


def _assert_rows(narrow: NetworkState, whole: NetworkState, rows: list[int]) -> None:
    torch.testing.assert_close(narrow.feature_BCHW, whole.feature_BCHW[rows])
    torch.testing.assert_close(narrow.latent_BNC, whole.latent_BNC[rows])
    torch.testing.assert_close(narrow.previous_logits_BK, whole.previous_logits_BK[rows])
    assert len(narrow.pyramid) == len(whole.pyramid)
    for level, source in zip(narrow.pyramid, whole.pyramid, strict=True):
        torch.testing.assert_close(level, source[rows])


@pytest.mark.parametrize('dtype', [torch.int64, torch.int32, torch.uint8])
def test_select_by_number_keeps_the_order(dtype: torch.dtype) -> None:
    whole = _state(4)
    _assert_rows(whole.select(torch.tensor([2, 0, 2], dtype=dtype)), whole, [2, 0, 2])


def test_select_by_mask() -> None:
    whole = _state(4)
    narrow = whole.select(torch.tensor([True, False, False, True]))
    _assert_rows(narrow, whole, [0, 3])
    assert narrow.num_samples == 2


def test_clips_stay_whole() -> None:
    whole = _state(4, num_frames=3)
    assert whole.num_samples == 4
    by_number = whole.select(torch.tensor([3, 1]))
    assert by_number.num_samples == 2
    _assert_rows(by_number, whole, [9, 10, 11, 3, 4, 5])
    _assert_rows(whole.select(torch.tensor([False, True, False, True])), whole, [3, 4, 5, 9, 10, 11])


def test_select_nothing() -> None:
    narrow = _state(4, num_frames=3).select(torch.zeros(4, dtype=torch.bool))
    assert narrow.num_samples == 0
    assert narrow.feature_BCHW.shape == (0, 2, 3, 4)
    assert narrow.latent_BNC.shape == (0, 3, 2)


@pytest.mark.parametrize('num_frames', [1, 3])
def test_select_keeps_the_memory_format(num_frames: int) -> None:
    for channels_last in (True, False):
        narrow = _state(4, num_frames, channels_last).select(torch.tensor([2, 1]))
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert narrow.feature_BCHW.is_contiguous(memory_format=layout)


def test_what_is_absent_stays_absent() -> None:
    narrow = NetworkState(torch.zeros(3, 1, 2, 2)).select(torch.tensor([1]))
    assert (narrow.latent_BNC, narrow.previous_logits_BK, narrow.pyramid) == (None, None, None)
    assert NetworkState(torch.zeros(3, 1, 2, 2), pyramid=()).select(torch.tensor([1])).pyramid == ()


def test_wrong_indices_say_what_is_needed() -> None:
    state = _state(4, num_frames=2)
    with pytest.raises(ValueError, match=r'a mask of shape \(8,\) cannot select among 4 samples; pass a boolean tensor of shape \(4,\)'):
        state.select(torch.ones(8, dtype=torch.bool))
    with pytest.raises(ValueError, match=r'index has shape \(2,\) and type torch.float32; pass a 1-D tensor of sample numbers'):
        state.select(torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r'index has shape \(\) '):
        state.select(torch.tensor(1))
    with pytest.raises(IndexError):
        state.select(torch.tensor([4]))


def test_a_state_never_changes() -> None:
    state = _state(2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.num_frames = 2
    assert state.evolve(num_frames=2).num_frames == 2
    assert state.num_frames == 1


def test_narrowing_keeps_the_memory_format() -> None:
    for channels_last in (True, False):
        narrow = _state(4, channels_last=channels_last).select(torch.tensor([2, 0, 3]))
        wanted = torch.channels_last if channels_last else torch.contiguous_format
        assert narrow.feature_BCHW.is_contiguous(memory_format=wanted)


@pytest.mark.parametrize('channels_last', [True, False])
def test_concat_undoes_select(channels_last: bool) -> None:
    whole = _state(4, num_frames=3, channels_last=channels_last)
    joined = NetworkState.concat([whole.select(torch.tensor([0, 1])), whole.select(torch.tensor([2])), whole.select(torch.tensor([3]))])
    _assert_rows(joined, whole, list(range(12)))
    assert joined.num_samples == 4 and joined.num_frames == 3
    assert joined.feature_BCHW.stride() == whole.feature_BCHW.stride()
    bare = NetworkState(whole.feature_BCHW)
    assert NetworkState.concat([bare, bare]).latent_BNC is None


def test_concat_refuses_states_of_different_segments() -> None:
    whole = _state(2)
    for other in (whole.evolve(latent_BNC=None), whole.evolve(previous_logits_BK=None), whole.evolve(feature_BCHW=torch.zeros(2, 2, 3, 5))):
        with pytest.raises(ValueError, match=r'2 kinds of states .* gather states after the same segment'):
            NetworkState.concat([whole, other])


@pytest.mark.parametrize('num_frames', [1, 3])
def test_split_and_concat(num_frames: int) -> None:
    whole = _state(5, num_frames=num_frames, channels_last=True)
    parts = whole.split(2)
    assert [part.num_samples for part in parts] == [2, 2, 1]
    _assert_rows(parts[1], whole, list(range(2 * num_frames, 4 * num_frames)))
    assert parts[1].feature_BCHW.data_ptr() != whole.feature_BCHW.data_ptr()
    assert parts[1].feature_BCHW.untyped_storage().data_ptr() == whole.feature_BCHW.untyped_storage().data_ptr()  # no copy
    _assert_rows(NetworkState.concat(parts), whole, list(range(5 * num_frames)))
    assert whole.split(5) == (whole,)
    bare = NetworkState(whole.feature_BCHW, num_frames=num_frames).split(3)
    assert [part.num_samples for part in bare] == [3, 2] and bare[0].latent_BNC is None and bare[0].pyramid is None
