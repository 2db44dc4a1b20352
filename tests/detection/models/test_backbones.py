"""What the backbones give to a detector, over all feature branches."""

from __future__ import annotations

from functools import cache
from math import ceil
from typing import Any

import pytest
import torch
from core_models import NARROW_WIDTHS, standard_normal
from mmcv.ops import RoIAlign
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import DefaultScope
from narrow_backbones import BACKBONES, backbone_settings, empty_backbone, narrow_backbone
from torch import Tensor

import dynperceiver_action  # noqa: F401  without its stand-in the scope mmaction cannot be imported from MMAction2's wheel
from dynperceiver.analysis import count_exit_costs, count_gmacs, meta_copy
from dynperceiver.feature_branches import FEATURE_BRANCHES
from dynperceiver_det.models import DynPerceiverBackbone, FeatureBranchBackbone, PyramidBackbone, published_shapes
from dynperceiver_det.registry import MODELS

SIZES = ((64, 96), (67, 131), (33, 32))
IMAGES = (1, 3, 35, 64)
SUBSETS = ((3,), (0, 1), (1, 2, 3))

both = pytest.mark.parametrize('kind', BACKBONES)


@both
@pytest.mark.parametrize('name', FEATURE_BRANCHES)
@torch.no_grad()
def test_maps_of_images_of_any_size(name: str, kind: type[PyramidBackbone]) -> None:
    backbone = empty_backbone(kind, name)
    assert backbone.out_strides == (4, 8, 16, 32)
    published = published_shapes(name, NARROW_WIDTHS.get(name, 1.0))
    assert (published.channels, published.strides) == (backbone.out_channels, backbone.out_strides)
    for height, width in SIZES:
        maps = backbone(torch.zeros(2, 3, height, width))
        assert [tuple(feature.shape) for feature in maps] == [
            (2, channels, ceil(height / stride), ceil(width / stride))
            for channels, stride in zip(backbone.out_channels, backbone.out_strides, strict=True)
        ]
        assert all(feature.is_contiguous(memory_format=torch.channels_last) for feature in maps), 'not copied on their way out'


@cache
@torch.no_grad()
def _whole(kind: type[PyramidBackbone], name: str) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
    """Weights and maps of a backbone that gives all four."""
    backbone = narrow_backbone(kind, name).eval()
    return backbone.state_dict(), backbone(standard_normal(IMAGES))


@both
@pytest.mark.parametrize('name', ['resnet18', 'mobilenet_v3_large'])
@pytest.mark.parametrize('out_indices', SUBSETS)
@torch.no_grad()
def test_a_choice_of_maps(out_indices: tuple[int, ...], name: str, kind: type[PyramidBackbone]) -> None:
    """A choice has the same maps as all, and no more weights than it needs."""
    weights, everything = _whole(kind, name)
    chosen = empty_backbone(kind, name, out_indices=list(out_indices)).double()
    chosen.load_state_dict({key: value for key, value in weights.items() if key in chosen.state_dict()})
    expected = [everything[index] for index in out_indices]
    maps = chosen(standard_normal(IMAGES))
    assert len(maps) == len(out_indices)
    assert all(torch.equal(given, same) for given, same in zip(maps, expected, strict=True))
    assert chosen.out_channels == tuple(feature.shape[1] for feature in maps) == tuple(feature.shape[1] for feature in expected)
    assert chosen.out_strides == tuple((4, 8, 16, 32)[i] for i in out_indices)
    published = published_shapes(name, NARROW_WIDTHS[name], out_indices)
    assert (published.channels, published.strides) == (chosen.out_channels, chosen.out_strides)
    if 3 not in out_indices:
        assert len(chosen.state_dict()) < len(weights)


@both
@pytest.mark.parametrize('name', ['resnet18', 'mobilenet_v3_large'])
@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (0, 2)])
def test_every_parameter_learns(out_indices: tuple[int, ...], name: str, kind: type[PyramidBackbone]) -> None:
    """Distributed training would stop at one that does not."""
    backbone = narrow_backbone(kind, name, out_indices=out_indices)
    sum(feature.sum() for feature in backbone(standard_normal((2, 3, 64, 64)))).backward()
    assert [key for key, parameter in backbone.named_parameters() if parameter.grad is None] == []


@torch.no_grad()
def test_the_latent_code_writes_to_every_map() -> None:
    backbone = narrow_backbone(DynPerceiverBackbone).eval()
    images = standard_normal((1, 3, 64, 64))
    trunk = backbone.network.feature_branch(images)
    assert not [level for level, (feature, alone) in enumerate(zip(backbone(images), trunk, strict=True)) if torch.allclose(feature, alone)]


@both
@torch.no_grad()
def test_images_of_a_batch_do_not_touch_each_other(kind: type[PyramidBackbone]) -> None:
    backbone = narrow_backbone(kind).eval()
    images = standard_normal((3, 3, 67, 64))
    for batch, single in zip(backbone(images), backbone(images[1:2]), strict=True):
        torch.testing.assert_close(batch[1:2], single, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_padding_reaches_no_further_than_the_receptive_field() -> None:
    backbone = narrow_backbone(FeatureBranchBackbone).eval()
    image = standard_normal((1, 3, 64, 64))
    padded = torch.nn.functional.pad(image, (0, 32, 0, 32))
    given, alone = backbone(padded)[0], backbone(image)[0]
    assert given.shape[2:] == (24, 24)
    torch.testing.assert_close(given[..., :10, :10], alone[..., :10, :10], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(given[..., :16, :16], alone)


@both
@pytest.mark.parametrize('name', ['resnet18', 'mobilenet_v3_large'])
@torch.no_grad()
def test_roi_align_reads_the_maps_right(name: str, kind: type[PyramidBackbone]) -> None:
    """MMCV's operator reads memory as if it were contiguous, whatever the strides of the tensor say."""
    backbone = narrow_backbone(kind, name).eval()
    images = standard_normal((2, 3, 64, 96))
    assert not all(feature.is_contiguous() for feature in backbone(images)), 'nothing to be afraid of any more'
    rois = torch.tensor([[0, 3.0, 5, 40, 50], [1, 20, 1, 90, 60]], dtype=torch.float64)
    for feature, stride in zip(backbone(images), backbone.out_strides, strict=True):
        align = RoIAlign(3, spatial_scale=1 / stride, sampling_ratio=2)
        pooled = align(feature, rois)
        torch.testing.assert_close(pooled, align(feature.clone(memory_format=torch.contiguous_format), rois), rtol=0, atol=0)
        if stride == 4:
            centre = feature[0, :, 7, 5]  # of a box around one pixel's centre, to see that the channels are where they belong
            x, y = 5.5 * stride, 7.5 * stride
            box = torch.tensor([[0, x - 0.01, y - 0.01, x + 0.01, y + 0.01]], dtype=torch.float64)
            torch.testing.assert_close(RoIAlign(1, 1 / stride, 1)(feature, box)[0, :, 0, 0], centre, rtol=1e-6, atol=1e-6)


@both
@pytest.mark.parametrize('out_indices', [(), (4,), (-1,), (1, 0), (2, 2), (0, 1, 2, 3, 4)])
def test_out_indices(out_indices: tuple[int, ...], kind: type[PyramidBackbone]) -> None:
    with pytest.raises(ValueError, match=r'pass one to four of 0, 1, 2, 3 in rising order; they stand for .* strides 4, 8, 16') as caught:
        kind(**backbone_settings(kind, out_indices=out_indices))
    assert f'out_indices={out_indices}' in str(caught.value)


@both
@pytest.mark.parametrize('frozen_stages', [-2, 5])
def test_number_of_frozen_stages(frozen_stages: int, kind: type[PyramidBackbone]) -> None:
    with pytest.raises(ValueError, match=rf'frozen_stages={frozen_stages}: pass -1 \(none\), 0 \(the stem\), or 1 to 4 \(the stem and'):
        kind(**backbone_settings(kind, frozen_stages=frozen_stages))


def test_the_stem_alone() -> None:
    pattern = r'out_indices=\(0,\) on mobilenet_v3_large asks for the map of the stem alone.*add another map, or take FeatureBranchBackbone'
    with pytest.raises(ValueError, match=pattern):
        DynPerceiverBackbone(**backbone_settings(DynPerceiverBackbone, 'mobilenet_v3_large', out_indices=(0,)))
    trunk = narrow_backbone(FeatureBranchBackbone, 'mobilenet_v3_large', out_indices=(0,))
    assert {key.split('.')[1] for key in trunk.state_dict()} == {'stem'}


def test_switches_and_wrong_numbers_reach_the_network() -> None:
    switched = narrow_backbone(DynPerceiverBackbone, x2z=False, dwc=False, last_z2x=False, token_mixers=False, drop_path=0.1)
    assert not [key for key in switched.state_dict() if 'x2z.1' in key or 'dwc' in key or 'last_z2x' in key or 'mixers' in key]
    assert {type(module).__name__ for module in switched.modules()} >= {'DropPath'}
    for changes, pattern in (
        ({'z2x': False, 'last_z2x': False}, 'reaches none of the feature maps'),
        ({'z2x': False, 'out_indices': (0, 1)}, 'z2x=False, last_z2x=True, num_stages=2 without exits'),
        ({'num_latents': 12}, 'num_latents=12 is not divisible by 8'),
        ({'feature_branch': 'resnet51'}, "feature_branch='resnet51' is unknown; did you mean resnet50"),
    ):
        with pytest.raises(ValueError, match=pattern):
            narrow_backbone(DynPerceiverBackbone, **changes)
    with pytest.raises(ValueError, match="feature_branch='resnet51' is unknown"):
        narrow_backbone(FeatureBranchBackbone, 'resnet51')
    with pytest.raises(ValueError, match=r'width=0\.3 for resnet18'):
        narrow_backbone(FeatureBranchBackbone, width=0.3)


@both
@pytest.mark.parametrize('scope', [None, 'mmdet', 'mmaction', 'mmengine', 'dynperceiver_det'])
def test_default_scope_does_not_matter(scope: str | None, kind: type[PyramidBackbone]) -> None:
    settings = backbone_settings(kind, type=f'dynperceiver_det.{kind.__name__}')
    with torch.device('meta'), DefaultScope.overwrite_default_scope(scope):
        for registry in (MMENGINE_MODELS, MMDET_MODELS, MODELS):
            assert type(registry.build(dict(settings))) is kind


@both
def test_bare_names_in_mmdet(kind: type[PyramidBackbone]) -> None:
    settings: dict[str, Any] = backbone_settings(kind, type=kind.__name__)
    with torch.device('meta'):
        assert type(MMDET_MODELS.build(dict(settings))) is kind
        with DefaultScope.overwrite_default_scope('mmdet'):
            assert type(MMENGINE_MODELS.build(dict(settings))) is kind


def test_a_subclass_must_say_what_it_is_made_of() -> None:
    backbone = PyramidBackbone((0,))
    with pytest.raises(NotImplementedError, match=r'PyramidBackbone does not say how to compute its maps; override pyramid\(\)'):
        backbone(torch.zeros(1, 3, 32, 32))
    with pytest.raises(NotImplementedError, match=r'does not say what its stages are; override stage_parts\(\)'):
        backbone.stage_parts(0)


def test_costs_on_the_image_size_of_the_paper() -> None:
    """Table 4 of the paper: 37.7 and 32.85 GMACs."""
    with torch.device('meta'):
        backbone = DynPerceiverBackbone('regnet_y_1_6gf', num_latents=256, depth_factors=(1, 1, 1, 1))
        trunk = FeatureBranchBackbone('regnet_y_1_6gf')
    costs = count_exit_costs(backbone.network, 800, 1280)
    assert costs[-1].cost_gmacs == pytest.approx(37.7, rel=0.02)
    assert costs[-1].num_params == sum(parameter.numel() for parameter in backbone.parameters())
    assert count_gmacs(meta_copy(trunk), torch.empty(1, 3, 800, 1280, device='meta')) == pytest.approx(32.85, rel=0.02)
