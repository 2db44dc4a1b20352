"""Structure of the CNN families, against their published tables and an independent forward pass."""

from __future__ import annotations

import pytest
import torch
from core_models import NARROW_WIDTHS, shared_narrow_model, standard_normal
from core_reference import UsedWeights
from published_cnns import PUBLISHED_PARAMETERS, STRIDES, cnn_forward, divisible, family, mobilenet_rows, published_channels
from torch import nn

from dynperceiver import build_feature_branch, build_static_trunk
from dynperceiver.feature_branches import FEATURE_BRANCHES, FeatureBranch, feature_shapes

IMAGES = (2, 3, 96, 64)


def _shadow(name: str, width: float = 1.0, **options: object) -> FeatureBranch:
    with torch.device('meta'):
        return build_feature_branch(name, width=width, **options)


def test_every_published_cnn_is_there() -> None:
    assert set(FEATURE_BRANCHES) == set(PUBLISHED_PARAMETERS)


@pytest.mark.parametrize('name', FEATURE_BRANCHES)
def test_forward_matches_the_published_definition(name: str) -> None:
    branch = shared_narrow_model(name).feature_branch
    weights = UsedWeights(branch.state_dict())
    images = standard_normal(IMAGES)
    with torch.no_grad():
        expected = cnn_forward(weights, name, images, NARROW_WIDTHS.get(name, 1.0))
        torch.testing.assert_close(branch.stem(images), expected[0], rtol=1e-9, atol=1e-9)
        for level, map_ in zip(branch(images), expected[1:], strict=True):
            torch.testing.assert_close(level, map_, rtol=1e-9, atol=1e-9)
    unused = {key for key in weights if not key.endswith('num_batches_tracked')} - weights.used
    assert not unused


@pytest.mark.parametrize('name', FEATURE_BRANCHES)
def test_full_width_has_the_published_number_of_parameters(name: str) -> None:
    branch = _shadow(name)
    assert sum(parameter.numel() for parameter in branch.parameters()) == PUBLISHED_PARAMETERS[name]


@pytest.mark.parametrize('name', FEATURE_BRANCHES)
def test_published_channels_and_strides_are_what_comes_out(name: str) -> None:
    width = NARROW_WIDTHS.get(name, 1.0)
    branch = shared_narrow_model(name).feature_branch
    assert branch.channels == published_channels(name, width)
    assert branch.strides == STRIDES[family(name)]
    with torch.no_grad():
        images = standard_normal(IMAGES)
        maps = [branch.stem(images), *branch(images)]
    for x, channels, stride in zip(maps, branch.channels, branch.strides, strict=True):
        assert x.shape == (2, channels, 96 // stride, 64 // stride)
        assert torch.isfinite(x).all()


WIDTHS = {
    'resnet': (0.125, 0.375, 0.5, 0.625, 0.75, 1.0, 2.0),
    'regnet_y': (1.0,),
    'mobilenet_v3_large': (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0),
    'efficientnet_lite': (0.1, 0.25, 0.75, 1.0, 2.0),
}


@pytest.mark.parametrize(('name', 'width'), [(name, width) for name in FEATURE_BRANCHES for width in WIDTHS[family(name)]])
def test_published_before_anything_is_built_is_what_is_built(name: str, width: float, monkeypatch: pytest.MonkeyPatch) -> None:
    branch = _shadow(name, width)
    with torch.no_grad():
        feature = torch.empty(1, 3, 96, 64, device='meta')
        maps = [feature := part(feature) for part in (branch.stem, *branch.stages)]
    monkeypatch.setattr(type(FEATURE_BRANCHES[name]), 'build', lambda *_: pytest.fail('it was built'))
    shapes = feature_shapes(name, width)
    assert [tuple(x.shape[1:]) for x in maps] == [
        (channels, 96 // stride, 64 // stride) for channels, stride in zip(shapes.channels, shapes.strides, strict=True)
    ]
    assert shapes == branch.shapes


@pytest.mark.parametrize('name', ['resnet18', 'resnet34', 'resnet50'])
@pytest.mark.parametrize('width', [0.375, 0.5, 0.625, 0.75, 1.0])
def test_resnet_width_multiplies_every_channel(name: str, width: float) -> None:
    branch = _shadow(name, width)
    assert branch.channels == published_channels(name, width)
    full = {key: module.out_channels for key, module in _shadow(name).named_modules() if isinstance(module, nn.Conv2d)}
    for key, module in branch.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.out_channels == width * full[key], key


def test_resnet_x0375_channels() -> None:
    assert _shadow('resnet50', 0.375).channels == (24, 96, 192, 384, 768)
    assert _shadow('resnet18', 0.375).channels == (24, 24, 48, 96, 192)


@pytest.mark.parametrize(
    ('width', 'channels', 'head'),
    [
        (0.5, (16, 24, 40, 80, 480), 640),
        (0.75, (24, 32, 64, 120, 720), 960),
        (1.0, (24, 40, 80, 160, 960), 1280),
        (1.25, (32, 48, 104, 200, 1200), 1600),
        (1.5, (40, 64, 120, 240, 1440), 1920),
        (2.0, (48, 80, 160, 320, 1920), 2560),
    ],
)
def test_mobilenet_width_goes_through_multiples_of_8(width: float, channels: tuple[int, ...], head: int) -> None:
    branch = _shadow('mobilenet_v3_large', width)
    assert branch.channels == channels == published_channels('mobilenet_v3_large', width)
    assert branch.head_channels == head
    depthwise = [module for module in branch.modules() if isinstance(module, nn.Conv2d) and module.groups > 1]
    rows = [row for rows in mobilenet_rows() for row in rows]
    assert [(conv.kernel_size[0], conv.out_channels, conv.groups, conv.stride[0]) for conv in depthwise] == [
        (kernel, divisible(expanded * width), divisible(expanded * width), stride) for kernel, expanded, _, _, _, stride in rows
    ]


@pytest.mark.parametrize(
    ('name', 'channels', 'depths'),
    [
        ('efficientnet_lite0', (32, 24, 40, 112, 1280), (3, 2, 6, 5)),
        ('efficientnet_lite1', (32, 24, 40, 112, 1280), (4, 3, 8, 6)),
        ('efficientnet_lite2', (32, 24, 48, 120, 1280), (4, 3, 8, 6)),
        ('efficientnet_lite3', (32, 32, 48, 136, 1280), (4, 3, 10, 7)),
        ('efficientnet_lite4', (32, 32, 56, 160, 1280), (5, 4, 12, 9)),
    ],
)
def test_efficientnet_lite_scales_blocks_but_not_stem_and_head(name: str, channels: tuple[int, ...], depths: tuple[int, ...]) -> None:
    branch = _shadow(name)
    assert branch.channels == channels
    assert tuple(sum(hasattr(block, 'has_shortcut') for block in stage) for stage in branch.stages) == depths


@torch.no_grad()
@pytest.mark.parametrize('size', [(75, 62), (62, 75), (65, 97), (1, 2), (5, 6)])
def test_efficientnet_lite_pads_as_tensorflow_does_whatever_the_size(size: tuple[int, int]) -> None:
    branch = shared_narrow_model('efficientnet_lite0').feature_branch
    images = standard_normal((2, 3, *size))
    expected = cnn_forward(UsedWeights(branch.state_dict()), 'efficientnet_lite0', images, NARROW_WIDTHS['efficientnet_lite0'])
    for level, map_ in zip(branch(images), expected[1:], strict=True):
        torch.testing.assert_close(level, map_, rtol=1e-9, atol=1e-9)
        assert level.shape == map_.shape


@pytest.mark.parametrize(('number', 'image_size', 'dropout'), [(0, 224, 0.2), (1, 240, 0.2), (2, 260, 0.3), (3, 280, 0.3), (4, 300, 0.3)])
def test_efficientnet_lite_publishes_what_it_was_trained_with(number: int, image_size: int, dropout: float) -> None:
    name = f'efficientnet_lite{number}'
    row = FEATURE_BRANCHES[name]
    assert (row.image_size, row.dropout, row.mean, row.std) == (image_size, dropout, (127,) * 3, (128,) * 3)
    for changes, expected in (({}, dropout), ({'dropout': 0.5}, 0.5), ({'dropout': 0.0}, 0.0)):
        with torch.device('meta'):
            trunk = build_static_trunk(name, width=0.25, num_classes=3, **changes)
        assert sum(module.p for module in trunk.modules() if isinstance(module, nn.Dropout)) == expected


def test_squeeze_widths_and_gates() -> None:
    mobile = [module for module in _shadow('mobilenet_v3_large', 0.5).modules() if type(module).__name__ == 'SqueezeExcitation']
    expanded = [divisible(row[1] * 0.5) for rows in mobilenet_rows() for row in rows if row[3]]
    assert [(module.fc1.in_channels, module.fc1.out_channels) for module in mobile] == [(c, divisible(c / 4)) for c in expanded]
    assert {(type(module.activation), type(module.gate)) for module in mobile} == {(nn.ReLU, nn.Hardsigmoid)}
    regnet = [module for module in _shadow('regnet_y_800mf').modules() if type(module).__name__ == 'SqueezeExcitation']
    assert [module.fc1.out_channels for module in regnet] == [8, 16, 36, 36] + [36] + 7 * [80] + [80, 196]  # round(block input / 4)
    assert {(type(module.activation), type(module.gate)) for module in regnet} == {(nn.ReLU, nn.Sigmoid)}


@pytest.mark.parametrize(
    ('name', 'eps', 'momentum'),
    [
        ('mobilenet_v3_large', 1e-3, 0.01),
        ('efficientnet_lite0', 1e-3, 0.01),
        ('resnet50', 1e-5, 0.1),
        ('regnet_y_400mf', 1e-5, 0.1),
    ],
)
def test_batch_norm_settings(name: str, eps: float, momentum: float) -> None:
    norms = [module for module in _shadow(name).modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert {(module.eps, module.momentum) for module in norms} == {(eps, momentum)}


@pytest.mark.parametrize('name', FEATURE_BRANCHES)
def test_drop_path_grows_linearly_over_the_blocks(name: str) -> None:
    branch = _shadow(name, drop_path=0.2)
    blocks = [module for module in branch.modules() if hasattr(module, 'drop_path')]
    for k, block in enumerate(blocks):
        drops = getattr(block, 'has_shortcut', True)
        rate = 0.2 * k / (len(blocks) - 1) if drops else 0
        assert (block.drop_path.drop_prob if block.drop_path else 0) == pytest.approx(rate)
    assert all(block.drop_path is None for block in _shadow(name).modules() if hasattr(block, 'drop_path'))


@pytest.mark.parametrize('name', FEATURE_BRANCHES)
def test_no_strided_pointwise_convolution_on_few_channels(name: str) -> None:
    """oneDNN writes past its buffer in their backward pass on the CPU, so that training such a branch dies at random."""
    for key, module in shared_narrow_model(name).feature_branch.named_modules():
        if type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.stride != (1, 1):
            assert module.in_channels >= 16, key
