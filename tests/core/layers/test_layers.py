"""What the layers promise beyond the network's equations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynperceiver.layers import Attention, DropPath, LatentToFeature, SqueezeExcitation, TokenMixer, self_attention_stack


def test_drop_path_drops_whole_rows_and_keeps_the_mean() -> None:
    layer = DropPath(0.25)
    x = torch.ones(20_000, 3, 1, 1)
    dropped = layer(x)
    torch.testing.assert_close(dropped.unique(), torch.tensor([0, 4 / 3]))
    assert (dropped.amax((1, 2, 3)) == dropped.amin((1, 2, 3))).all()
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert x.min() == 1, 'the input is left alone'


def test_drop_path_does_nothing_in_eval_mode_or_at_rate_0() -> None:
    x = torch.randn(5, 3, 2, 2)
    assert DropPath(0.5).eval()(x) is x
    assert DropPath(0.0)(x) is x


@pytest.mark.parametrize('rate', [-0.1, 1.0, 2])
def test_drop_path_rate(rate: float) -> None:
    with pytest.raises(ValueError, match=f'drop_prob={rate}: a probability of at least 0 and below 1'):
        DropPath(rate)


def test_latent_to_feature_needs_8_channels() -> None:
    with pytest.raises(ValueError, match=r'a feature map of 4 channels is too narrow .*at least 8 channels'):
        LatentToFeature(4, 16)
    assert LatentToFeature(20, 16).cross_attn.attention.q_proj.out_features == 2


def test_attention_has_no_bias_before_and_one_after() -> None:
    layer = Attention(2, 8, 12, num_kv_tokens=5)
    assert [linear.bias is None for linear in (layer.q_proj, layer.k_proj, layer.v_proj, layer.o_proj)] == [True, True, True, False]
    assert layer.relative_position_bias.shape == (1, 5, 8)
    assert Attention(2, 8, 12).relative_position_bias is None


def test_attention_weights_by_hand() -> None:
    """Two keys, one query: scores q.k / sqrt(2) per head."""
    layer = Attention(2, 4, 4)
    with torch.no_grad():
        for linear in (layer.q_proj, layer.k_proj, layer.v_proj, layer.o_proj):
            linear.weight.copy_(torch.eye(4))
        layer.o_proj.bias.zero_()
        query, kv = torch.tensor([[[1.0, 0, 0, 2]]]), torch.tensor([[[1.0, 5, 7, 1], [3, 6, 8, 2]]])
        first = torch.tensor([1.0, 3]).div(2**0.5).softmax(0)
        second = torch.tensor([2.0, 4]).div(2**0.5).softmax(0)
        expected = torch.cat([first @ kv[0, :, :2], second @ kv[0, :, 2:]])
        torch.testing.assert_close(layer(query, kv)[0, 0], expected)


def test_self_attention_stack() -> None:
    stack = self_attention_stack(16, num_heads=4, depth=3, widening=2)
    assert len(stack) == 3
    assert stack[0].mlp.fc1.out_features == 32
    assert stack(torch.randn(2, 5, 16)).shape == (2, 5, 16)


def test_token_mixer_halves_the_tokens() -> None:
    assert TokenMixer(6)(torch.randn(2, 6, 9)).shape == (2, 3, 9)


def test_squeeze_excitation_scales_channels() -> None:
    layer = SqueezeExcitation(4, 2, nn.Sigmoid)
    x = torch.rand(2, 4, 3, 3) + 1
    ratio = layer(x) / x
    torch.testing.assert_close(ratio, ratio.mean((2, 3), keepdim=True).expand_as(ratio))
    assert ((ratio > 0) & (ratio < 1)).all()
