"""Networks as other libraries write them, small, with random weights: a ResNet as torchvision's, a vision transformer as timm's; and what
is checked of every network that is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from dynamic_runs import assert_replayed, full_logits, spread_policy
from torch import Tensor, nn

from dynperceiver import DynPerceiver, build_model
from dynperceiver.grafting import CutNetwork, cut_network
from dynperceiver.grafting.cuts import OneByOne
from dynperceiver.inference import DynamicRunner

__all__ = [
    'BasicBlock',
    'Bottleneck',
    'ResNet',
    'VisionTransformer',
    'Wrapped',
    'check_clip_exits',
    'check_image_exits',
    'check_parts',
    'lean_on',
    'resnet',
    'unsettled',
    'vision_transformer',
]


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut, with activations in place."""

    expansion = 1

    def __init__(self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """As torchvision's."""
        identity = x
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    """Three convolutions and a shortcut, with activations in place."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inplanes, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, 4 * planes, 1, bias=False), nn.BatchNorm2d(4 * planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """As torchvision's."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(out)))))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """A ResNet of torchvision's make."""

    def __init__(self, block: Any = BasicBlock, layers: Sequence[int] = (1, 1, 1, 1), num_classes: int = 7, width: int = 8) -> None:
        super().__init__()
        self.inplanes = width
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for number, count in enumerate(layers):
            self.add_module(f'layer{number + 1}', self._make_layer(block, width * 2**number, count, 2 if number else 1))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(self.inplanes, num_classes)

    def _make_layer(self, block: Any, planes: int, count: int, stride: int) -> nn.Sequential:
        downsample, out = None, planes * block.expansion
        if stride != 1 or self.inplanes != out:
            downsample = nn.Sequential(nn.Conv2d(self.inplanes, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        blocks = [block(self.inplanes, planes, stride, downsample)]
        self.inplanes = out
        return nn.Sequential(*blocks, *(block(out, planes) for _ in range(count - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class _SelfAttention(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(B, N, C))


class _Block(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), _SelfAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """A vision transformer of timm's make, with a class token."""

    def __init__(self, image_size: int = 64, patch: int = 16, dim: int = 16, depth: int = 4, num_classes: int = 7) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, patch, patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, (image_size // patch) ** 2 + 1, dim) * 0.02)
        self.blocks = nn.Sequential(*(_Block(dim, 2) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


def resnet(num_classes: int = 7) -> nn.Module:
    """As users write it behind --model."""
    return unsettled(ResNet(num_classes=num_classes))


def vision_transformer(num_classes: int = 7) -> nn.Module:
    """The other one."""
    return VisionTransformer(num_classes=num_classes)


def unsettled(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, with statistics of BatchNorm that are not those of the beginning."""
    for module in network.modules():
        if isinstance(getattr(module, 'running_var', None), Tensor):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    network.eval()
    return network


class Wrapped(nn.Module):
    """A backbone's last map, its mean, and a Linear.

    Args:
        backbone: The backbone.
        channels: Channels of its last map.
    """

    def __init__(self, backbone: nn.Module, channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(channels, 7)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        y = self.backbone(x)
        if isinstance(y, tuple | list):
            y = y[-1]
        return self.head(y.mean((-1, -2)))


def lean_on(branch: Any, **changes: Any) -> DynPerceiver:
    """Lean exits on a network that was cut, with statistics of their own."""
    network = build_model(branch, **{**dict(num_latents=4, latent_width=32, num_classes=7, frozen_trunk=True), **changes})
    for name, module in network.named_modules():
        if name.startswith('exits.') and isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, 0, 0.1)
        if name.startswith('exits.') and isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.5)
    return network.eval()


@torch.no_grad()
def check_parts(network: nn.Module, example: Tensor, cuts: Sequence[str]) -> CutNetwork:
    """Cut, and check that the parts in a row give the network's logits."""
    branch = cut_network(network, example, cuts)
    assert branch.num_stages == len(cuts) == len(branch.layouts) - 1
    for count in (1, 3):
        samples = torch.randn(count, *example.shape[1:])
        value = branch.stem(samples)
        for number, stage in enumerate(branch.stages):
            axis = branch.layouts[number].axes.index('C')
            assert value.shape[axis] == branch.channels[number]
            value = stage(value)
        assert torch.equal(value, _answers(network, branch, samples))
    return branch


def _answers(network: nn.Module, branch: CutNetwork, samples: Tensor) -> Tensor:
    """What a network gives, for those whose parts take one sample each from as many runs."""
    one_by_one = isinstance(branch.stem, OneByOne)
    return torch.cat([network(sample) for sample in samples.split(1)]) if one_by_one else network(samples)


@torch.no_grad()
def check_image_exits(
    network: nn.Module, branch: CutNetwork, example: Tensor, make_runner: Callable[..., Any] = DynamicRunner, **changes: Any
) -> DynPerceiver:
    """Put exits on a cut network of images, and check that narrowing batches answers as replayed."""
    dynamic = lean_on(branch, **changes)
    images = torch.randn(8 * dynamic.num_frames, *example.shape[1:])
    logits = full_logits(dynamic, images)
    assert np.isfinite(logits).all()
    own = _answers(network, branch, images).unflatten(0, (-1, dynamic.num_frames)).mean(1)
    assert torch.equal(torch.from_numpy(logits[-1]), own)
    policy = spread_policy(logits, between=True)
    result = make_runner(dynamic, policy)(images)
    assert len(set(result.exit_index.tolist())) > 1
    assert_replayed(result, policy, logits, tolerance=1e-4)
    return dynamic


@torch.no_grad()
def check_clip_exits(network: nn.Module, branch: CutNetwork, example: Tensor) -> DynPerceiver:
    """Put exits on a cut network of clips, and narrow a batch from segment to segment."""
    dynamic = lean_on(branch)
    clips = torch.randn(3, *example.shape[1:])
    logits = dynamic(clips)
    assert all(one.isfinite().all() and one.shape == (3, 7) for one in logits)
    assert torch.equal(logits[-1], _answers(network, branch, clips))
    state = dynamic.start(clips)
    for segment, expected in zip(dynamic.segments, logits, strict=True):
        one, state = segment(state)
        torch.testing.assert_close(one, expected[-len(one) :], rtol=1e-4, atol=1e-4)
        state = state.select(torch.tensor([state.num_samples - 1]))
    return dynamic
