"""MMDetection's detectors on a backbone, without typing channels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import Config
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import DefaultScope
from narrow_backbones import BACKBONES, backbone_settings
from torch import nn

import dynperceiver_action  # noqa: F401  without its stand-in the scope mmaction cannot be imported from MMAction2's wheel
from dynperceiver_det import fill_neck_channels
from dynperceiver_det.models import DynPerceiverBackbone, FeatureBranchBackbone, PyramidBackbone, build_detector
from dynperceiver_det.registry import MODELS

CHANNELS = [8, 16, 32, 64]  # of ResNet-18 x0.125
TRAINING = {'assigner': {'type': 'MaxIoUAssigner', 'pos_iou_thr': 0.5, 'neg_iou_thr': 0.4}, 'allowed_border': 7, 'pos_weight': -1}


def _backbone(kind: type[PyramidBackbone] = FeatureBranchBackbone, **changes: Any) -> dict[str, Any]:
    return backbone_settings(kind, type=f'dynperceiver_det.{kind.__name__}', **changes)


def _fpn(**changes: Any) -> dict[str, Any]:
    return {'type': 'FPN', 'out_channels': 8, 'num_outs': 5, **changes}


def _retinanet(**changes: Any) -> dict[str, Any]:
    """A narrow RetinaNet, in the words of a config."""
    anchors = {'octave_base_scale': 4, 'scales_per_octave': 1, 'ratios': [1.0], 'strides': [4, 8, 16, 32, 64]}
    head = {
        'type': 'RetinaHead',
        'num_classes': 2,
        'in_channels': 8,
        'feat_channels': 8,
        'stacked_convs': 1,
        'anchor_generator': {'type': 'AnchorGenerator', **anchors},
        'bbox_coder': {'type': 'DeltaXYWHBBoxCoder'},
        'loss_cls': {'type': 'FocalLoss', 'use_sigmoid': True},
        'loss_bbox': {'type': 'L1Loss'},
    }
    model = {'type': 'dynperceiver_det.Detector', 'detector': 'RetinaNet', 'backbone': _backbone(), 'neck': _fpn(), 'bbox_head': head}
    return {**model, **changes}


def _convs_in(neck: nn.Module) -> list[int]:
    return [conv.conv.in_channels for conv in neck.lateral_convs]


def _lines(logged: list[tuple[int, str]]) -> list[str]:
    return [line for _, line in logged if 'neck.in_channels' in line]


@pytest.mark.parametrize('kind', BACKBONES)
@pytest.mark.parametrize('base', ['retinanet', 'faster-rcnn'])
def test_a_base_config_of_mmdet(base: str, kind: type[PyramidBackbone], logged: list[tuple[int, str]]) -> None:
    """As users do it: MMDetection's own config with another backbone and type."""
    detector = {'retinanet': 'mmdet.RetinaNet', 'faster-rcnn': 'mmdet.FasterRCNN'}[base]
    model = {'type': 'dynperceiver_det.Detector', 'detector': detector, 'backbone': {'_delete_': True, **_backbone(kind)}}
    cfg = Config.fromstring(f"_base_ = 'mmdet::_base_/models/{base}_r50_fpn.py'\nmodel = {model}", '.py').model
    before = copy.deepcopy(cfg.to_dict())
    with torch.device('meta'):
        model = MMENGINE_MODELS.build(cfg)
    assert type(model).__name__ == detector.removeprefix('mmdet.')
    assert type(model.backbone) is kind
    assert model.neck.in_channels == CHANNELS
    assert _convs_in(model.neck) == CHANNELS[model.neck.start_level :]
    assert _lines(logged) == [f'neck.in_channels: [256, 512, 1024, 2048] of the config becomes {CHANNELS}, as the backbone publishes']
    assert cfg.to_dict() == before, 'the config is the one that is dumped and tested with later'


def test_a_detector_runs() -> None:
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    model = MMENGINE_MODELS.build(_retinanet(backbone=_backbone(DynPerceiverBackbone), train_cfg=TRAINING))
    images = torch.randn(2, 3, 67, 64)
    samples = [DetDataSample(metainfo={'img_shape': (67, 64), 'pad_shape': (67, 64), 'scale_factor': (1, 1)}) for _ in images]
    for sample in samples:
        sample.gt_instances = InstanceData(bboxes=torch.tensor([[5.0, 5, 30, 40]]), labels=torch.tensor([1]))
    losses = model(images, samples, mode='loss')
    sum(sum(values) for values in losses.values()).backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1, 2, 3), (3,)])
def test_only_the_maps_that_are_returned_count(out_indices: tuple[int, ...]) -> None:
    with torch.device('meta'):
        model = MODELS.build(_retinanet(backbone=_backbone(out_indices=out_indices)))
    assert _convs_in(model.neck) == [CHANNELS[index] for index in out_indices]


@pytest.mark.parametrize('as_tuple', [False, True])
def test_the_first_of_several_necks_follows_the_backbone(as_tuple: bool) -> None:
    necks = [_fpn(), {'type': 'BFP', 'in_channels': 8, 'num_levels': 5, 'refine_level': 2}]
    model = fill_neck_channels({'backbone': _backbone(), 'neck': tuple(necks) if as_tuple else necks})
    assert model['neck'][0] == _fpn(in_channels=CHANNELS)
    assert model['neck'][1] == necks[1]
    with torch.device('meta'):
        built = MMENGINE_MODELS.build(_retinanet(neck=necks))
    assert [type(neck).__name__ for neck in built.neck] == ['FPN', 'BFP']
    assert _convs_in(built.neck[0]) == CHANNELS


def test_a_neck_that_takes_one_map(logged: list[tuple[int, str]]) -> None:
    neck = {'type': 'DilatedEncoder', 'in_channels': 2048, 'out_channels': 8, 'block_mid_channels': 4, 'num_residual_blocks': 1}
    neck['block_dilations'] = [2]
    with torch.device('meta'):
        model = MMENGINE_MODELS.build(_retinanet(backbone=_backbone(out_indices=(3,)), neck=neck))
    assert model.neck.in_channels == 64
    assert _lines(logged) == ['neck.in_channels: 2048 of the config becomes 64, as the backbone publishes']
    pattern = (
        r'neck DilatedEncoder takes one map \(in_channels=2048\), but the backbone gives 4 with \(8, 16, 32, 64\) channels; choose one by '
        r'backbone\.out_indices, for example \(3,\)'
    )
    with pytest.raises(ValueError, match=pattern):
        MMENGINE_MODELS.build(_retinanet(neck=neck))


@pytest.mark.parametrize('changes', [{}, {'neck': None}, {'neck': []}], ids=['absent', 'none', 'empty'])
def test_no_neck(changes: dict[str, Any]) -> None:
    cfg = {'backbone': {'type': 'not.even.looked.at'}, 'bbox_head': {'in_channels': 3}, **changes}
    assert fill_neck_channels(cfg) == cfg


def test_a_detector_without_neck() -> None:
    cfg = _retinanet(backbone=_backbone(out_indices=(0,)))
    cfg['bbox_head']['anchor_generator']['strides'] = [4]
    cfg['neck'] = None  # MMDetection's RetinaNet asks for the argument
    model = MMENGINE_MODELS.build(cfg)
    assert not model.with_neck
    assert [scores.shape for scores in model(torch.randn(1, 3, 64, 96), mode='tensor')[0]] == [(1, 2, 16, 24)]


@pytest.mark.parametrize('before', [None, CHANNELS, tuple(CHANNELS)])
def test_nothing_is_said_where_nothing_changes(before: Any, logged: list[tuple[int, str]]) -> None:
    neck = _fpn() if before is None else _fpn(in_channels=before)
    assert fill_neck_channels({'backbone': _backbone(), 'neck': neck})['neck']['in_channels'] == CHANNELS
    assert _lines(logged) == []


def test_the_given_config_stays_as_it_is() -> None:
    cfg = {'backbone': _backbone(), 'neck': [_fpn(in_channels=[1, 2, 3, 4])]}
    before = copy.deepcopy(cfg)
    filled = fill_neck_channels(cfg)
    assert cfg == before
    filled['backbone']['width'] = 0.25
    assert cfg == before, 'nothing is shared'


@pytest.mark.parametrize('kind', BACKBONES)
def test_reading_the_channels_builds_nothing(kind: type[PyramidBackbone], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('build_model', 'build_feature_branch'):
        monkeypatch.setattr(f'dynperceiver_det.models.backbones.{name}', lambda *_, **_settings: pytest.fail('a network was built'))
    assert fill_neck_channels({'backbone': _backbone(kind), 'neck': _fpn()})['neck']['in_channels'] == CHANNELS
    by_class = {**_backbone(kind), 'type': kind}
    assert fill_neck_channels({'backbone': by_class, 'neck': _fpn()})['neck']['in_channels'] == CHANNELS
    with pytest.raises(ValueError, match=r'width=0\.3 for resnet18'):
        fill_neck_channels({'backbone': _backbone(kind, width=0.3), 'neck': _fpn()})


def test_a_subclass_is_asked_what_it_built() -> None:
    class Wider(FeatureBranchBackbone):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**{**settings, 'width': 0.25})

    assert fill_neck_channels({'backbone': {**_backbone(), 'type': Wider}, 'neck': _fpn()})['neck']['in_channels'] == [16, 32, 64, 128]

    class Same(FeatureBranchBackbone):
        pass

    assert fill_neck_channels({'backbone': {**_backbone(), 'type': Same}, 'neck': _fpn()})['neck']['in_channels'] == CHANNELS


def test_a_backbone_that_publishes_nothing() -> None:
    pattern = (
        r"backbone of type 'ResNet' publishes no out_channels, so that neck\.in_channels cannot be filled; take "
        r"dynperceiver_det\.DynPerceiverBackbone or FeatureBranchBackbone, or name the detector itself as the model's type and write "
        r'neck\.in_channels'
    )
    with pytest.raises(ValueError, match=pattern):
        MMENGINE_MODELS.build(_retinanet(backbone={'type': 'ResNet', 'depth': 18}))


def test_errors_of_the_backbone_come_through() -> None:
    with pytest.raises(ValueError, match=r'out_indices=\(5,\): pass one to four of'):
        MMENGINE_MODELS.build(_retinanet(backbone=_backbone(out_indices=(5,))))
    with pytest.raises(KeyError, match='NoSuchDetector'):
        MMENGINE_MODELS.build(_retinanet(detector='NoSuchDetector'))


@pytest.mark.parametrize('scope', [None, 'mmdet', 'mmaction', 'dynperceiver_det'])
@pytest.mark.parametrize('prefix', ['', 'mmdet.'])
def test_default_scope_does_not_matter(prefix: str, scope: str | None) -> None:
    """Names without a scope are MMDetection's, the backbone's included."""
    for name in ('dynperceiver_det.DynPerceiverBackbone', 'DynPerceiverBackbone'):
        backbone = {**_backbone(DynPerceiverBackbone), 'type': name}
        cfg = _retinanet(detector=f'{prefix}RetinaNet', backbone=backbone, neck=_fpn(type=f'{prefix}FPN'))
        with torch.device('meta'), DefaultScope.overwrite_default_scope(scope):
            model = MMENGINE_MODELS.build(cfg)
        assert type(model).__module__ == 'mmdet.models.detectors.retinanet'
        assert _convs_in(model.neck) == CHANNELS


@pytest.mark.parametrize(
    'build',
    [
        lambda cfg: MMDET_MODELS.build({**cfg, 'type': 'DynPerceiverDetector'}),
        lambda cfg: MODELS.build({**cfg, 'type': 'Detector'}),
        lambda cfg: build_detector(**{key: value for key, value in cfg.items() if key != 'type'}),
    ],
    ids=['mmdet', 'ours', 'function'],
)
def test_other_ways_to_build_it(build: Callable[[dict[str, Any]], nn.Module]) -> None:
    with torch.device('meta'):
        assert _convs_in(build(_retinanet()).neck) == CHANNELS


def test_all_settings_go_to_the_detector() -> None:
    preprocessor = {'type': 'DetDataPreprocessor', 'mean': [1, 2, 3], 'std': [4, 5, 6], 'pad_size_divisor': 32}
    test_cfg = {'nms_pre': 17, 'score_thr': 0.3, 'nms': {'type': 'nms', 'iou_threshold': 0.4}, 'max_per_img': 5}
    init_cfg = {'type': 'Pretrained', 'checkpoint': 'x.pth'}
    model = MMENGINE_MODELS.build(_retinanet(data_preprocessor=preprocessor, train_cfg=TRAINING, test_cfg=test_cfg, init_cfg=init_cfg))
    assert model.data_preprocessor.mean.flatten().tolist() == [1, 2, 3]
    assert model.data_preprocessor.pad_size_divisor == 32
    assert model.bbox_head.test_cfg['nms_pre'] == 17
    assert model.bbox_head.train_cfg['allowed_border'] == 7
    assert model.init_cfg == init_cfg
    with pytest.raises(TypeError, match='no_such_setting'):
        MMENGINE_MODELS.build(_retinanet(no_such_setting=1))


def test_reading_the_channels_draws_no_random_numbers_and_no_file(tmp_path: Any) -> None:
    """The same seed gives the same weights as without the builder; a checkpoint is not read twice, nor before ``init_weights``."""
    init_cfg = {'type': 'dynperceiver.ImageCheckpoint', 'checkpoint': str(tmp_path / 'not_there.pth')}
    cfg = _retinanet(backbone=_backbone(DynPerceiverBackbone, init_cfg=init_cfg))
    torch.manual_seed(5)
    model = MMENGINE_MODELS.build(cfg)
    direct = {key: value for key, value in cfg.items() if key != 'detector'} | {'type': 'RetinaNet', 'neck': _fpn(in_channels=CHANNELS)}
    torch.manual_seed(5)
    same = MMDET_MODELS.build(direct)
    for key, value in same.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
