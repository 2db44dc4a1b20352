"""The CNN families once more: their published tables, and their eval-mode forward passes without the package's modules.

Weights are state dicts of a feature branch; every tensor that is asked for is noted by :class:`core_reference.UsedWeights`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import torch.nn.functional as F
from core_reference import UsedWeights
from torch import Tensor

RESNETS = {'resnet18': ('basic', (2, 2, 2, 2)), 'resnet34': ('basic', (3, 4, 6, 3)), 'resnet50': ('bottleneck', (3, 4, 6, 3))}
REGNETS = {  # stage widths, depths, group width
    'regnet_y_400mf': ((48, 104, 208, 440), (1, 3, 6, 6), 8),
    'regnet_y_800mf': ((64, 144, 320, 784), (1, 3, 8, 2), 16),
    'regnet_y_1_6gf': ((48, 120, 336, 888), (2, 6, 17, 2), 24),
    'regnet_y_3_2gf': ((72, 216, 576, 1512), (2, 5, 13, 1), 24),
}
# kernel, expanded, out, squeeze-excitation, activation, stride; a line is the stem's part or a stage
MOBILENET_V3_LARGE = """
3,16,16,-,RE,1 3,64,24,-,RE,2
3,72,24,-,RE,1 5,72,40,SE,RE,2
5,120,40,SE,RE,1 5,120,40,SE,RE,1 3,240,80,-,HS,2
3,200,80,-,HS,1 3,184,80,-,HS,1 3,184,80,-,HS,1 3,480,112,SE,HS,1 3,672,112,SE,HS,1 5,672,160,SE,HS,2
5,960,160,SE,HS,1 5,960,160,SE,HS,1
"""
# channel factor, depth factor; and blocks (repeats, kernel, stride, expansion, out), a line is a stage
EFFICIENTNETS_LITE = {
    'efficientnet_lite0': (1.0, 1.0),
    'efficientnet_lite1': (1.0, 1.1),
    'efficientnet_lite2': (1.1, 1.2),
    'efficientnet_lite3': (1.2, 1.4),
    'efficientnet_lite4': (1.4, 1.8),
}
EFFICIENTNET_LITE = """
1,3,1,1,16 2,3,2,6,24
2,5,2,6,40
3,3,2,6,80 3,5,1,6,112
4,5,2,6,192 1,3,1,6,320
"""
STRIDES = {
    'resnet': (4, 4, 8, 16, 32),
    'regnet_y': (2, 4, 8, 16, 32),
    'mobilenet_v3_large': (4, 8, 16, 32, 32),
    'efficientnet_lite': (2, 4, 8, 16, 32),
}
# trainable parameters of the ImageNet classifiers as their publishers count them, and those of the classifiers' last layers
PUBLISHED_PARAMETERS = {
    'resnet18': 11_689_512 - 513_000,
    'resnet34': 21_797_672 - 513_000,
    'resnet50': 25_557_032 - 2_049_000,
    'regnet_y_400mf': 4_344_144 - 441_000,
    'regnet_y_800mf': 6_432_512 - 785_000,
    'regnet_y_1_6gf': 11_202_430 - 889_000,
    'regnet_y_3_2gf': 19_436_338 - 1_513_000,
    'mobilenet_v3_large': 5_483_032 - 1_230_080 - 1_281_000,
    'efficientnet_lite0': 4_652_008 - 1_281_000,
    'efficientnet_lite1': 5_416_680 - 1_281_000,
    'efficientnet_lite2': 6_092_072 - 1_281_000,
    'efficientnet_lite3': 8_197_096 - 1_281_000,
    'efficientnet_lite4': 13_006_568 - 1_281_000,
}


def mobilenet_rows() -> list[list[tuple[int, int, int, bool, str, int]]]:
    """Blocks of the stem and of the four stages."""
    parts = []
    for line in MOBILENET_V3_LARGE.split('\n')[1:-1]:
        cells = [row.split(',') for row in line.split()]
        parts.append([(int(k), int(e), int(o), se == 'SE', act, int(s)) for k, e, o, se, act, s in cells])
    return parts


def lite_rows(name: str, width: float = 1.0) -> list[list[tuple[int, int, int, int]]]:
    """Blocks of the four stages: kernel, stride, expansion, out."""
    channel_factor, depth_factor = EFFICIENTNETS_LITE[name]
    stages: list[list[tuple[int, int, int, int]]] = []
    for line in EFFICIENTNET_LITE.split('\n')[1:-1]:
        stages.append([])
        for cell in line.split():
            repeats, kernel, stride, expansion, out = map(int, cell.split(','))
            scaled = repeats if out in (16, 320) else ceil(depth_factor * repeats)
            channels = divisible(channel_factor * width * out)
            stages[-1] += [(kernel, stride, expansion, channels), *(scaled - 1) * [(kernel, 1, expansion, channels)]]
    return stages


def divisible(value: float) -> int:
    """The multiple of 8 nearest to a value (halves go up), but the next one where that loses more than a tenth."""
    nearest = max(8, 8 * int(value / 8 + 0.5))
    return nearest if nearest >= 0.9 * value else nearest + 8


def family(name: str) -> str:
    return next(prefix for prefix in STRIDES if name.startswith(prefix))


def published_channels(name: str, width: float = 1.0) -> tuple[int, ...]:
    """Channels of x_0 .. x_4."""
    if name in RESNETS:
        expansion = 4 if RESNETS[name][0] == 'bottleneck' else 1
        return tuple(int(width * channels) for channels in (64, *(64 * expansion * 2**i for i in range(4))))
    if name in REGNETS:
        return (32, *REGNETS[name][0])
    if name in EFFICIENTNETS_LITE:
        return (divisible(32 * width), *(rows[-1][3] for rows in lite_rows(name, width)[:3]), divisible(1280 * width))
    outs = [divisible(rows[-1][2] * width) for rows in mobilenet_rows()]
    return (*outs[:4], 6 * outs[4])


def norm(p: UsedWeights, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    scale = p[f'{name}.weight'] / (p[f'{name}.running_var'] + eps).sqrt()
    return (x - p[f'{name}.running_mean'][:, None, None]) * scale[:, None, None] + p[f'{name}.bias'][:, None, None]


def conv(p: UsedWeights, name: str, x: Tensor, size: tuple[int, int, int], stride: int = 1, groups: int = 1) -> Tensor:
    """A convolution without bias, of (in channels per group, out channels, kernel)."""
    weight = p[f'{name}.weight']
    assert tuple(weight.shape) == (size[1], size[0], size[2], size[2]), name
    return F.conv2d(x, weight, None, stride, size[2] // 2, groups=groups)


def gate(p: UsedWeights, name: str, x: Tensor, squeeze: int, sigmoid: Callable[[Tensor], Tensor]) -> Tensor:
    """Squeeze-excitation."""
    mean = x.mean((2, 3))
    first, second = p[f'{name}.fc1.weight'], p[f'{name}.fc2.weight']
    assert tuple(first.shape) == (squeeze, x.shape[1], 1, 1)
    assert tuple(second.shape) == (x.shape[1], squeeze, 1, 1)
    hidden = (mean @ first[:, :, 0, 0].T + p[f'{name}.fc1.bias']).clamp(min=0)
    return x * sigmoid(hidden @ second[:, :, 0, 0].T + p[f'{name}.fc2.bias'])[:, :, None, None]


def hard_sigmoid(x: Tensor) -> Tensor:
    return (x + 3).clamp(0, 6) / 6


def resnet_forward(p: UsedWeights, name: str, images: Tensor, width: float) -> list[Tensor]:
    kind, depths = RESNETS[name]
    base = int(64 * width)
    x = norm(p, 'stem.1', conv(p, 'stem.0', images, (3, base, 7), 2)).clamp(min=0)
    x = F.max_pool2d(x, 3, 2, 1)
    maps = [x]
    for i, depth in enumerate(depths):
        inner = base * 2**i
        out = inner * (4 if kind == 'bottleneck' else 1)
        for j in range(depth):
            block, stride, channels = f'stages.{i}.{j}', 2 if i and not j else 1, x.shape[1]
            if kind == 'bottleneck':
                convs = [((channels, inner, 1), 1), ((inner, inner, 3), stride), ((inner, out, 1), 1)]
            else:
                convs = [((channels, inner, 3), stride), ((inner, out, 3), 1)]
            y = x
            for n, (size, step) in enumerate(convs, 1):
                y = norm(p, f'{block}.bn{n}', conv(p, f'{block}.conv{n}', y, size, step))
                y = y.clamp(min=0) if n < len(convs) else y
            if channels != out or stride != 1:
                x = norm(p, f'{block}.downsample.1', conv(p, f'{block}.downsample.0', x, (channels, out, 1), stride))
            x = (x + y).clamp(min=0)
        maps.append(x)
    return maps


def regnet_forward(p: UsedWeights, name: str, images: Tensor) -> list[Tensor]:
    widths, depths, group = REGNETS[name]
    x = norm(p, 'stem.1', conv(p, 'stem.0', images, (3, 32, 3), 2)).clamp(min=0)
    maps = [x]
    for i, (out, depth) in enumerate(zip(widths, depths, strict=True)):
        for j in range(depth):
            block, stride, channels = f'stages.{i}.{j}', 1 if j else 2, x.shape[1]
            y = norm(p, f'{block}.f.a.1', conv(p, f'{block}.f.a.0', x, (channels, out, 1))).clamp(min=0)
            y = norm(p, f'{block}.f.b.1', conv(p, f'{block}.f.b.0', y, (group, out, 3), stride, out // group)).clamp(min=0)
            y = gate(p, f'{block}.f.se', y, round(0.25 * channels), lambda scores: scores.sigmoid())
            y = norm(p, f'{block}.f.c.1', conv(p, f'{block}.f.c.0', y, (out, out, 1)))
            if j == 0:
                x = norm(p, f'{block}.proj.1', conv(p, f'{block}.proj.0', x, (channels, out, 1), stride))
            x = (x + y).clamp(min=0)
        maps.append(x)
    return maps


def mobilenet_forward(p: UsedWeights, name: str, images: Tensor, width: float) -> list[Tensor]:
    def activate(x: Tensor, kind: str) -> Tensor:
        return x.clamp(min=0) if kind == 'RE' else x * hard_sigmoid(x)

    def unit(x: Tensor, where: str, size: tuple[int, int, int], stride: int = 1, groups: int = 1) -> Tensor:
        return norm(p, f'{where}.1', conv(p, f'{where}.0', x, size, stride, groups), eps=1e-3)

    x = activate(unit(images, 'stem.0', (3, divisible(16 * width), 3), 2), 'HS')
    maps = []
    for part, rows in enumerate(mobilenet_rows()):
        for j, (kernel, expanded, out, se, kind, stride) in enumerate(rows):
            where = f'stem.{j + 1}.block' if part == 0 else f'stages.{part - 1}.{j}.block'
            expanded, out, channels, n, y = divisible(expanded * width), divisible(out * width), x.shape[1], 0, x
            if expanded != channels:
                y, n = activate(unit(y, f'{where}.{n}', (channels, expanded, 1)), kind), n + 1
            y, n = activate(unit(y, f'{where}.{n}', (1, expanded, kernel), stride, expanded), kind), n + 1
            if se:
                y, n = gate(p, f'{where}.{n}', y, divisible(expanded / 4), hard_sigmoid), n + 1
            y = unit(y, f'{where}.{n}', (expanded, out, 1))
            x = x + y if stride == 1 and channels == out else y
        if part == 4:
            x = activate(unit(x, f'stages.3.{len(rows)}', (x.shape[1], 6 * x.shape[1], 1)), 'HS')
        maps.append(x)
    return maps


def same_padding(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros around a map as TensorFlow puts them: as many as the last window needs, the odd one at the end."""
    needed = [max((ceil(side / stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:]]
    return F.pad(x, (needed[1] // 2, needed[1] - needed[1] // 2, needed[0] // 2, needed[0] - needed[0] // 2))


def lite_forward(p: UsedWeights, name: str, images: Tensor, width: float) -> list[Tensor]:
    def unit(x: Tensor, where: str, size: tuple[int, int, int], stride: int = 1, groups: int = 1) -> Tensor:
        weight = p[f'{where}.0.weight']
        assert tuple(weight.shape) == (size[1], size[0], size[2], size[2]), where
        return norm(p, f'{where}.1', F.conv2d(same_padding(x, size[2], stride), weight, None, stride, groups=groups), eps=1e-3)

    x = unit(images, 'stem', (3, divisible(32 * width), 3), 2).clamp(0, 6)
    maps = [x]
    for i, rows in enumerate(lite_rows(name, width)):
        for j, (kernel, stride, expansion, out) in enumerate(rows):
            where, channels, n, y = f'stages.{i}.{j}.block', x.shape[1], 0, x
            if expansion > 1:
                y, n = unit(y, f'{where}.0', (channels, expansion * channels, 1)).clamp(0, 6), 1
            y = unit(y, f'{where}.{n}', (1, y.shape[1], kernel), stride, y.shape[1]).clamp(0, 6)
            y = unit(y, f'{where}.{n + 1}', (y.shape[1], out, 1))
            x = x + y if stride == 1 and channels == out else y
        if i == 3:
            x = unit(x, f'stages.3.{len(rows)}', (x.shape[1], divisible(1280 * width), 1)).clamp(0, 6)
        maps.append(x)
    return maps


def cnn_forward(p: UsedWeights, name: str, images: Tensor, width: float = 1.0) -> list[Tensor]:
    """Eval-mode x_0 .. x_4 of the plain CNN."""
    if name in RESNETS:
        return resnet_forward(p, name, images, width)
    if name in EFFICIENTNETS_LITE:
        return lite_forward(p, name, images, width)
    return regnet_forward(p, name, images) if name in REGNETS else mobilenet_forward(p, name, images, width)
