"""Recorded attention weights are those that the network used, and recording leaves nothing behind."""

from __future__ import annotations

import pytest
import torch
from core_models import narrow_model, standard_normal
from torch import Tensor, nn

from dynperceiver.layers import Attention, CrossAttentionLayer, FeatureToLatent
from dynperceiver.layers.recording import record_attention

IMAGES = (2, 3, 64, 64)


@pytest.mark.parametrize(('num_heads', 'num_kv_tokens'), [(1, None), (1, 9), (4, 9)])
def test_weights_times_values_give_the_output(num_heads: int, num_kv_tokens: int | None) -> None:
    attention = Attention(num_heads, 16, 12, num_kv_tokens=num_kv_tokens).double()
    query_BNC, kv_BMC = standard_normal((2, 5, 16)), standard_normal((2, 9, 12), seed=1)
    with record_attention({'a': attention}) as weights:
        output_BNC = attention(query_BNC, kv_BMC)
    weights_BHNM = weights['a']
    assert weights_BHNM.shape == (2, num_heads, 5, 9) and not weights_BHNM.requires_grad
    assert weights_BHNM.sum(-1) == pytest.approx(1) and weights_BHNM.min() > 0
    values_BHMD = attention.v_proj(kv_BMC).unflatten(2, (num_heads, -1)).transpose(1, 2)
    mixed_BNC = (weights_BHNM @ values_BHMD).transpose(1, 2).flatten(2)
    assert torch.allclose(attention.o_proj(mixed_BNC), output_BNC, atol=1e-12)
    assert (weights_BHNM - 1 / 9).abs().max() > 0.01, 'not just even weights'


def test_a_whole_network() -> None:
    model, images = narrow_model(), standard_normal(IMAGES)
    with torch.no_grad():
        plain = model(images)
        with record_attention(dict(enumerate(model.latent_branch.x2z, 1))) as weights:
            watched = model(images)
    assert all(torch.equal(one, other) for one, other in zip(plain, watched, strict=True))
    assert {stage: tuple(one.shape) for stage, one in weights.items()} == {i: (2, 1, 16 // 2 ** (i - 1), 49) for i in (1, 2, 3, 4)}
    assert torch.equal(weights[1][0, 0, 0] > 0, torch.ones(49, dtype=torch.bool))
    assert not torch.equal(weights[1][0], weights[1][1]), 'two images'


def test_parts_without_attention_are_left_out() -> None:
    model = narrow_model(x2z=False)
    assert not isinstance(model.latent_branch.x2z[1], FeatureToLatent)
    with torch.no_grad(), record_attention(dict(enumerate(model.latent_branch.x2z, 1))) as weights:
        model(standard_normal(IMAGES))
    assert list(weights) == [1]


def test_nothing_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = CrossAttentionLayer(8, 8).double()
    tokens = standard_normal((1, 4, 8))
    with pytest.raises(RuntimeError, match='stop'), record_attention({0: layer}):
        raise RuntimeError('stop')
    assert not any(module._forward_hooks for module in layer.modules())
    calls: list[Tensor] = []
    forward = Attention.forward
    monkeypatch.setattr(Attention, 'forward', lambda self, *args: calls.append(args[0]) or forward(self, *args))
    layer(tokens, tokens)
    assert len(calls) == 1, 'outside of the context attention is computed once'
    with record_attention({0: layer}) as weights:
        assert weights == {}
        layer(tokens, tokens)
        first = weights[0]
        layer(2 * tokens + standard_normal((1, 4, 8), seed=5), tokens)
    assert len(calls) == 5 and not torch.equal(weights[0], first), 'the last call counts'


def test_gradients_flow_as_ever() -> None:
    layer = CrossAttentionLayer(8, 8).double()
    tokens = standard_normal((1, 4, 8)).requires_grad_()
    with record_attention({0: layer}):
        layer(tokens, tokens).sum().backward()
    watched, tokens.grad = tokens.grad, None
    layer(tokens, tokens).sum().backward()
    assert torch.equal(watched, tokens.grad)


def test_several_attentions_under_one_name() -> None:
    pair = nn.Sequential(CrossAttentionLayer(8, 8), CrossAttentionLayer(8, 8))
    message = r"'pair' is a Sequential with 2 attentions; pass each of them under its own name"
    with pytest.raises(ValueError, match=message), record_attention({'fine': pair[0], 'pair': pair}):
        pass
    assert not pair[0].attention._forward_hooks
