"""Layers that have another form while exporting compute the same in it."""

from __future__ import annotations

import pytest
import torch
from core_models import narrow_model

from dynperceiver.deployment.folding import fold
from dynperceiver.layers import FeatureToLatent, TemporalShift


@pytest.fixture
def exporting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything takes its form for exporting."""
    monkeypatch.setattr('torch.compiler.is_exporting', lambda: True)


@pytest.mark.parametrize('bidirectional', [True, False])
@pytest.mark.parametrize(('num_frames', 'channels'), [(4, 16), (1, 16), (3, 9), (3, 7)])
def test_temporal_shift_writes_no_slices(bidirectional: bool, num_frames: int, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shift = TemporalShift(num_frames, bidirectional=bidirectional)
    frames_BCHW = torch.randn(2 * num_frames, channels, 3, 2)
    frames_BCHW[0, 0, 0, 0] = torch.inf  # zeros at a clip's border are no products with what was there
    monkeypatch.setattr(torch.Tensor, '__setitem__', None)
    shifted_BCHW = shift(frames_BCHW)
    assert not shifted_BCHW.isnan().any()
    stays = channels < 8 or (num_frames > 1 and not bidirectional)  # else it moves out of the clip
    assert int(shifted_BCHW.isinf().sum()) == stays


@pytest.mark.parametrize('size', [(14, 14), (16, 14), (14, 9), (5, 5), (1, 30), (7, 7)])
@pytest.mark.parametrize('dwc', [True, False])
def test_summary_of_any_size(size: tuple[int, int], dwc: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = FeatureToLatent(8, 6, dwc=dwc)
    feature_BCHW = torch.randn(2, 6, *size)
    expected = reader.summarize(feature_BCHW)
    monkeypatch.setattr('torch.compiler.is_exporting', lambda: True)
    if size[0] % 7 or size[1] % 7:
        monkeypatch.setattr('torch.nn.functional.adaptive_avg_pool2d', None)
    torch.testing.assert_close(reader.summarize(feature_BCHW), expected)


@pytest.mark.usefixtures('exporting')
def test_learned_code_is_not_repeated_per_row() -> None:
    network = narrow_model()
    assert network.latent_branch.start(torch.empty(4, 3, 8, 8)).shape == (1, 16, 8)


def test_folded_network_is_the_same_while_exporting(monkeypatch: pytest.MonkeyPatch) -> None:
    network = fold(narrow_model(), (64, 64))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected = network(images)
    monkeypatch.setattr('torch.compiler.is_exporting', lambda: True)
    torch.testing.assert_close(network(images), expected)
