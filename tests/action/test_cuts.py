"""Recognizers of MMAction2, backbone and head, are cut, and answer as before: those of frames as images, and those of clips as a whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from foreign_networks import check_clip_exits, check_image_exits, check_parts, unsettled
from mmaction.registry import MODELS
from mmengine.registry import init_default_scope
from torch import Tensor, nn

import dynperceiver_action  # noqa: F401  its fixes must come before MMAction2 is imported


class _Recognizer(nn.Module):
    def __init__(self, recognizer: Any, num_segs: int | None) -> None:
        super().__init__()
        self.backbone, self.cls_head, self.num_segs = recognizer.backbone, recognizer.cls_head, num_segs

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        if self.num_segs is None:
            return self.cls_head(self.backbone(x))
        return self.cls_head(self.backbone(x), self.num_segs)


def _network(recognizer: str, backbone: dict[str, Any], head: dict[str, Any], num_segs: int | None = None) -> nn.Module:
    init_default_scope('mmaction')
    config = dict(type=recognizer, backbone=backbone, cls_head=dict(head, num_classes=7), data_preprocessor=None)
    return unsettled(_Recognizer(MODELS.build(config), num_segs))


R2PLUS1D = dict(
    type='ResNet2Plus1d',
    depth=18,
    base_channels=8,
    pretrained=None,
    pretrained2d=False,
    norm_eval=False,
    conv_cfg=dict(type='Conv2plus1d'),
    norm_cfg=dict(type='SyncBN'),
    act_cfg=dict(type='ReLU'),
    conv1_kernel=(3, 7, 7),
    conv1_stride_t=1,
    pool1_stride_t=1,
    inflate=(1, 1, 1, 1),
    spatial_strides=(1, 2, 2, 2),
    temporal_strides=(1, 2, 2, 2),
)
I3D = dict(type='I3DHead', in_channels=64)
CLIPS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[int, ...], list[str]]] = {
    'SlowOnly': (
        dict(type='ResNet3dSlowOnly', depth=18, base_channels=8, pretrained=None),
        I3D,
        (3, 4, 64, 64),
        ['backbone.layer2', 'backbone.layer3'],
    ),
    'R(2+1)D': (R2PLUS1D, I3D, (3, 4, 32, 32), ['backbone.layer2', 'backbone.layer3']),
    'X3D': (
        dict(type='X3D', gamma_w=1, gamma_b=1, gamma_d=1),
        dict(type='X3DHead', in_channels=192, spatial_type='avg', fc1_bias=False),
        (3, 4, 32, 32),
        ['backbone.layer2', 'backbone.layer3.0'],
    ),
    'MViT': (
        dict(type='MViT', arch=dict(embed_dims=16, num_layers=3, num_heads=1, downscale_indices=[1]), temporal_size=4, spatial_size=32),
        dict(type='MViTHead', in_channels=32),
        (3, 4, 32, 32),
        ['backbone.blocks.0', 'backbone.blocks.1'],
    ),
    'SwinTransformer3D': (
        dict(
            type='SwinTransformer3D',
            arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
            window_size=(2, 4, 4),
            pretrained=None,
        ),
        I3D,
        (3, 4, 64, 64),
        ['backbone.layers.0', 'backbone.layers.1'],
    ),
}


@pytest.mark.parametrize('kind', CLIPS)
def test_exits_on_recognizers_of_clips(kind: str) -> None:
    backbone, head, shape, cuts = CLIPS[kind]
    network, example = _network('Recognizer3D', backbone, head), torch.randn(2, *shape)
    branch = check_parts(network, example, cuts)
    assert branch.input_dims == 5
    dynamic = check_clip_exits(network, branch, example)
    with pytest.raises(ValueError, match=r'pass clips as \(B, 3, T, H, W\)'):
        dynamic(torch.randn(2, 3, 32, 32))


def test_exits_on_a_recognizer_of_frames() -> None:
    """TSN: frames run as images, and what a clip is answered is the mean over its frames."""
    backbone = dict(type='mmaction.ResNet', depth=18, pretrained=None, norm_eval=False)
    network = _network('Recognizer2D', backbone, dict(type='TSNHead', in_channels=512), num_segs=1)
    example = torch.randn(2, 3, 64, 64)
    branch = check_parts(network, example, ['backbone.layer2', 'backbone.layer3'])
    assert branch.input_dims == 4
    check_image_exits(network, branch, example, num_frames=4)
