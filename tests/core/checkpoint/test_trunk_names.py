"""Other libraries' names of the CNNs, and ours: a name for each tensor, exact inverses, and nothing goes unnoticed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from core_models import narrow_shadow
from torch import Tensor, nn

from dynperceiver import build_static_trunk
from dynperceiver.checkpoint import TRUNK_NAMES, TrunkNames, convert_from_trunk, convert_to_trunk, find_trunk_names

ROWS = [(row, library, variant) for row in TRUNK_NAMES for library in row.libraries for variant in row.variants()]
NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
# What the libraries' state dicts hold, from their public definitions: (library, variant) to some names and the shapes of their tensors.
KNOWN: dict[tuple[str, str], dict[str, tuple[int, ...]]] = {
    ('torchvision', 'resnet18'): {
        'conv1.weight': (64, 3, 7, 7),
        'layer1.1.bn2.bias': (64,),
        'layer2.0.downsample.0.weight': (128, 64, 1, 1),
        'layer4.1.conv2.weight': (512, 512, 3, 3),
        'fc.weight': (1000, 512),
    },
    ('timm', 'resnet50'): {'bn1.weight': (64,), 'layer3.5.conv3.weight': (1024, 256, 1, 1), 'fc.bias': (1000,)},
    ('torchvision', 'regnet_y_400mf'): {
        'stem.0.weight': (32, 3, 3, 3),
        'stem.1.running_var': (32,),
        'trunk_output.block1.block1-0.proj.0.weight': (48, 32, 1, 1),
        'trunk_output.block2.block2-2.f.b.0.weight': (104, 8, 3, 3),
        'trunk_output.block4.block4-0.f.se.fc1.weight': (52, 440, 1, 1),
        'trunk_output.block4.block4-5.f.c.1.bias': (440,),
        'fc.weight': (1000, 440),
    },
    ('timm', 'regnet_y_400mf'): {
        'stem.conv.weight': (32, 3, 3, 3),
        'stem.bn.weight': (32,),
        's1.b1.downsample.conv.weight': (48, 32, 1, 1),
        's1.b1.downsample.bn.bias': (48,),
        's2.b3.conv2.conv.weight': (104, 8, 3, 3),
        's4.b1.se.fc2.bias': (440,),
        's4.b6.conv3.bn.running_mean': (440,),
        'head.fc.weight': (1000, 440),
    },
    ('torchvision', 'mobilenet_v3_large'): {
        'features.0.0.weight': (16, 3, 3, 3),
        'features.1.block.0.0.weight': (16, 1, 3, 3),
        'features.1.block.1.1.bias': (16,),
        'features.4.block.2.fc1.weight': (24, 72, 1, 1),
        'features.15.block.3.0.weight': (160, 960, 1, 1),
        'features.16.0.weight': (960, 160, 1, 1),
        'classifier.0.weight': (1280, 960),
        'classifier.3.bias': (1000,),
    },
    ('timm', 'mobilenet_v3_large'): {
        'conv_stem.weight': (16, 3, 3, 3),
        'blocks.0.0.conv_dw.weight': (16, 1, 3, 3),
        'blocks.0.0.conv_pw.weight': (16, 16, 1, 1),
        'blocks.0.0.bn2.bias': (16,),
        'blocks.1.0.conv_pw.weight': (64, 16, 1, 1),
        'blocks.2.0.se.conv_reduce.weight': (24, 72, 1, 1),
        'blocks.3.3.conv_dw.weight': (184, 1, 3, 3),
        'blocks.4.1.se.conv_expand.bias': (672,),
        'blocks.5.2.conv_pwl.weight': (160, 960, 1, 1),
        'blocks.5.2.bn3.weight': (160,),
        'blocks.6.0.conv.weight': (960, 160, 1, 1),
        'blocks.6.0.bn1.weight': (960,),
        'conv_head.weight': (1280, 960, 1, 1),
        'conv_head.bias': (1280,),
        'classifier.weight': (1000, 1280),
    },
    ('efficientnet_lite_pytorch', 'efficientnet_lite0'): {
        '_conv_stem.weight': (32, 3, 3, 3),
        '_bn0.bias': (32,),
        '_blocks.0._depthwise_conv.weight': (32, 1, 3, 3),
        '_blocks.0._bn2.weight': (16,),
        '_blocks.15._expand_conv.weight': (1152, 192, 1, 1),
        '_blocks.15._project_conv.weight': (320, 1152, 1, 1),
        '_conv_head.weight': (1280, 320, 1, 1),
        '_bn1.weight': (1280,),
        '_fc.weight': (1000, 1280),
    },
}


def _shadow(variant: str) -> dict[str, Tensor]:
    with torch.device('meta'):
        return build_static_trunk(variant).state_dict()


def _filled(variant: str, num_classes: int = 7) -> dict[str, Tensor]:
    state_dict = build_static_trunk(variant, num_classes=num_classes).double().state_dict()
    return {key: torch.rand_like(value) if value.is_floating_point() else value + 3 for key, value in state_dict.items()}


@pytest.mark.parametrize(('row', 'library', 'variant'), ROWS, ids=lambda value: value if isinstance(value, str) else '')
def test_each_tensor_has_one_name_and_the_way_back(row: TrunkNames, library: str, variant: str) -> None:
    ours = _shadow(variant)
    theirs = convert_to_trunk(ours, library)
    assert len(theirs) == len(ours) and not set(theirs) & set(ours)
    assert [other for other in TRUNK_NAMES if all(marker in theirs for marker in other.markers)] == [row], 'no other row takes it'
    back = convert_from_trunk(theirs)
    assert list(back) == list(ours), 'the same names in the same order'
    assert all(back[key].shape == ours[key].shape for key in ours)
    for name, shape in KNOWN.get((library, variant), {}).items():
        assert theirs[name].shape == shape, name


def test_every_library_is_compared_with_known_names() -> None:
    assert {library for _, library, _ in ROWS} == {library for library, _ in KNOWN}
    assert {row.family for row, library, variant in ROWS if (library, variant) in KNOWN} == {row.family for row in TRUNK_NAMES}


@pytest.mark.parametrize(
    ('library', 'variant'), [('torchvision', 'resnet18'), ('timm', 'regnet_y_400mf'), ('torchvision', 'mobilenet_v3_large')]
)
def test_values_go_there_and_back_unchanged(library: str, variant: str) -> None:
    ours = _filled(variant)
    back = convert_from_trunk(convert_to_trunk(ours, library))
    assert all(back[key] is value for key, value in ours.items())


def test_timms_mobilenet_computes_the_same_in_spite_of_its_other_epsilon() -> None:
    """Its BatchNorms add 1e-5 to the variance where ours add 1e-3; its first classifier layer is a convolution."""
    ours = _filled('mobilenet_v3_large')
    theirs = convert_to_trunk(ours, 'timm')
    variances = {name: value for name, value in theirs.items() if name.endswith('running_var')}
    given = sorted(value.sum().item() + value.numel() * 1e-3 for key, value in ours.items() if key.endswith('running_var'))
    assert sorted(value.sum().item() + value.numel() * 1e-5 for value in variances.values()) == pytest.approx(given, rel=1e-12)
    torch.testing.assert_close(theirs['bn1.running_var'] + 1e-5, ours['feature_branch.stem.0.1.running_var'] + 1e-3, rtol=1e-12, atol=0)
    assert torch.equal(theirs['conv_head.weight'].flatten(1), ours['exits.0.classifier.0.weight'])
    back = convert_from_trunk(theirs)
    torch.testing.assert_close(back, ours, rtol=1e-12, atol=1e-12)
    trunk = build_static_trunk('mobilenet_v3_large', num_classes=7).double().eval()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        trunk.load_state_dict(back)
        (logits,) = trunk(images)
        for module in trunk.modules():
            if isinstance(module, nn.BatchNorm2d):  # as timm has it
                module.running_var += 1e-3 - 1e-5
                module.eps = 1e-5
        torch.testing.assert_close(trunk.feature_branch.stem[0][1].running_var, theirs['bn1.running_var'])
        torch.testing.assert_close(trunk(images)[0], logits, rtol=1e-9, atol=1e-9)


def test_files_without_counters_or_without_a_classifier() -> None:
    ours = _filled('resnet18')
    theirs = convert_to_trunk(ours, 'torchvision')
    old = {name: value for name, value in theirs.items() if 'num_batches' not in name and not name.startswith('fc.')}
    back = convert_from_trunk(old)
    assert set(ours) - set(back) == {'exits.0.classifier.weight', 'exits.0.classifier.bias'}
    assert all(torch.equal(back[key], torch.tensor(0) if key.endswith('num_batches_tracked') else ours[key]) for key in back)


def test_variants_of_equal_depth_are_told_apart_by_their_channels() -> None:
    for variant in ('efficientnet_lite1', 'efficientnet_lite2'):
        theirs = convert_to_trunk(_shadow(variant), 'efficientnet_lite_pytorch')
        back = convert_from_trunk(theirs)
        assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in _shadow(variant).items()}


def test_a_network_that_is_none_of_ours() -> None:
    theirs = convert_to_trunk(_shadow('resnet18'), 'torchvision')
    deeper = {**theirs, **{f'layer3.7.bn1.{name}': theirs[f'layer3.1.bn1.{name}'] for name in NORM}}
    del deeper['layer1.0.bn1.weight']
    pattern = (
        r'those of torchvision and timm, but of none of resnet18, resnet34, resnet50; the closest is resnet18, of whose names 1 are '
        r'missing \(layer1\.0\.bn1\.weight\) and 4 are unknown \(layer3\.7\.bn1\.bias, .*\)\. Pass a complete state dict of one of '
    )
    with pytest.raises(ValueError, match=pattern):
        convert_from_trunk(deeper)


def test_names_of_nobody() -> None:
    with pytest.raises(ValueError, match=r'are those of no CNN that is known here \(the first one is a\); known are resnet18, resnet34, '):
        convert_from_trunk({'a': torch.zeros(1)})
    assert find_trunk_names({'a': 1}) is None


def test_a_library_without_such_a_network() -> None:
    with pytest.raises(ValueError, match=r"library='keras' is unknown; choose one of: torchvision, timm, efficientnet_lite_pytorch"):
        convert_to_trunk(_shadow('resnet18'), 'keras')
    with pytest.raises(ValueError, match=r'efficientnet_lite_pytorch has no names for this network: .*but of none of efficientnet_lite0'):
        convert_to_trunk(_shadow('resnet18'), 'efficientnet_lite_pytorch')


def test_a_whole_dyn_perceiver_is_no_cnn() -> None:
    state_dict: dict[str, Any] = narrow_shadow('resnet18').state_dict()
    with pytest.raises(ValueError, match=r'more than a CNN and its classifier, for example latent_branch\.latent; timm has names for a'):
        convert_to_trunk(state_dict, 'timm')
