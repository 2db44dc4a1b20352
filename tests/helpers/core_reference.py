"""The forward pass once more, straight from the equations and without any of the package's modules.

It works on a state dict with the authors' names, notes which of its tensors it used, and takes the CNN's stem and stages as
callables. Shapes are those of the paper: feature maps (B, C, H, W), latent codes (B, N, C).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

HEADS = (1, 2, 4, 8)
Stage = Callable[[Tensor], Tensor]


class UsedWeights(dict[str, Tensor]):
    """A state dict that notes which tensors were asked for."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__(weights)
        self.used: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.used.add(key)
        return super().__getitem__(key)


def layer_norm(p: UsedWeights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * p[f'{name}.weight'] + p[f'{name}.bias']


def linear(p: UsedWeights, name: str, x: Tensor, bias: bool = True) -> Tensor:
    product = x @ p[f'{name}.weight'].T
    return product + p[f'{name}.bias'] if bias else product


def batch_norm(p: UsedWeights, name: str, x: Tensor) -> Tensor:
    scaled = (x - p[f'{name}.running_mean']) / torch.sqrt(p[f'{name}.running_var'] + 1e-5)
    return scaled * p[f'{name}.weight'] + p[f'{name}.bias']


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def attention(p: UsedWeights, name: str, query: Tensor, kv: Tensor, heads: int, position: bool) -> Tensor:
    q, k, v = (linear(p, f'{name}.{part}_proj', x, bias=False) for part, x in (('q', query), ('k', kv), ('v', kv)))
    if position:
        k = k + p[f'{name}.relative_position_bias']
    size = q.shape[-1] // heads
    outputs = []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        scores = q[..., part] @ k[..., part].transpose(1, 2) * size**-0.5
        outputs.append(scores.softmax(-1) @ v[..., part])
    return linear(p, f'{name}.o_proj', torch.cat(outputs, -1))


def mlp(p: UsedWeights, name: str, x: Tensor) -> Tensor:
    return linear(p, f'{name}.fc2', gelu(linear(p, f'{name}.fc1', layer_norm(p, f'{name}.layernorm', x))))


def cross_attention(p: UsedWeights, name: str, query: Tensor, kv: Tensor, position: bool) -> Tensor:
    q, k = layer_norm(p, f'{name}.cross_attn.q_norm', query), layer_norm(p, f'{name}.cross_attn.kv_norm', kv)
    query = query + attention(p, f'{name}.cross_attn.attention', q, k, 1, position)
    return query + mlp(p, f'{name}.mlp', query)


def pool7(x: Tensor) -> Tensor:
    """Adaptive average pool to 7x7, as 49 tokens."""
    height, width = x.shape[2:]
    bins = [[(i * size // 7, -(-(i + 1) * size // 7)) for i in range(7)] for size in (height, width)]
    return torch.stack([x[:, :, top:bottom, left:right].mean((2, 3)) for top, bottom in bins[0] for left, right in bins[1]], 1)


def read(p: UsedWeights, i: int, z: Tensor, x: Tensor, depth: int, x2z: bool, dwc: bool) -> Tensor:
    """X2Z and self-attention of stage i."""
    if x2z or i == 1:
        if dwc:
            x = F.conv2d(x, p[f'dwc{i}_x2z.weight'], p[f'dwc{i}_x2z.bias'], padding=3, groups=x.shape[1]) + x
        z = cross_attention(p, f'cross_att{i}_x2z', z, pool7(x), position=True)
    for j in range(depth):
        normed = layer_norm(p, f'self_att{i}.{j}.self_attn.norm', z)
        z = z + attention(p, f'self_att{i}.{j}.self_attn.attention', normed, normed, HEADS[i - 1], position=False)
        z = z + mlp(p, f'self_att{i}.{j}.mlp', z)
    return z


def write(p: UsedWeights, name: str, x: Tensor, z: Tensor) -> Tensor:
    """Z2X."""
    batch, channels, height, width = x.shape
    pixels = x.reshape(batch, channels, height * width).transpose(1, 2)
    return cross_attention(p, name, pixels, z, position=False).transpose(1, 2).reshape(batch, channels, height, width)


def transfer(p: UsedWeights, name: str, logits: Tensor) -> Tensor:
    return batch_norm(p, f'{name}.1', linear(p, f'{name}.0', logits)).clamp(min=0)


def two_layer_head(p: UsedWeights, name: str, first: int, x: Tensor) -> Tensor:
    hidden = linear(p, f'{name}.{first}', x)
    return linear(p, f'{name}.{first + 3}', hidden * (hidden + 3).clamp(0, 6) / 6)


def reference_forward(
    p: UsedWeights,
    stem: Stage,
    stages: Sequence[Stage],
    images: Tensor,
    depths: Sequence[int],
    *,
    two_layer_heads: bool = False,
    x2z: bool = True,
    z2x: bool = True,
    dwc: bool = True,
    fkt: bool = True,
    last_z2x: bool = True,
    token_mixers: bool = True,
) -> dict[str, Tensor]:
    """Eval-mode logits ``exit1`` .. ``exit4``, feature maps ``x1`` .. ``x4``, and latent codes ``z1`` .. ``z4`` after self-attention."""
    out: dict[str, Tensor] = {}
    x = stem(images)
    z = p['latent'].expand(x.shape[0], -1, -1)
    for i in (1, 2, 3, 4):
        z = out[f'z{i}'] = read(p, i, z, x, depths[i - 1], x2z, dwc)
        if i == 3:
            out['exit1'] = linear(p, 'early_classifier3', z.mean(1))
        if i == 4:
            parts = [z.mean(1), *([transfer(p, 'isc3', out['exit1'])] if fkt else [])]
            out['exit2'] = linear(p, 'classifier_att', torch.cat(parts, 1))
        x = stages[i - 1](x)
        if i < 4:
            if token_mixers:
                tokens = layer_norm(p, f'token_mixer.{i - 1}.0', z.transpose(1, 2))
                z = linear(p, f'token_mixer.{i - 1}.1', tokens).transpose(1, 2)
            z = linear(p, f'token_expander.{i - 1}.1', layer_norm(p, f'token_expander.{i - 1}.0', z))
            x = write(p, f'cross_att{i + 1}_z2x', x, z) if z2x else x
            out[f'x{i}'] = x
    pooled = x.mean((2, 3))
    out['exit3'] = two_layer_head(p, 'classifier_cnn', 0, pooled) if two_layer_heads else linear(p, 'classifier_cnn', pooled)
    x = out['x4'] = write(p, 'last_cross_att_z2x', x, z) if last_z2x else x
    parts = [x.mean((2, 3)), z.mean(1), *([transfer(p, 'isc4', out['exit2'])] if fkt else [])]
    merged = batch_norm(p, 'classifier_merge.0', torch.cat(parts, 1))
    out['exit4'] = two_layer_head(p, 'classifier_merge', 1, merged) if two_layer_heads else linear(p, 'classifier_merge.1', merged)
    return out
