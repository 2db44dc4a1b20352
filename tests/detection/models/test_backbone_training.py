"""Backbones while training: freezing, norms, activation checkpointing, and where the weights come from."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from core_models import shared_narrow_model, standard_normal
from mmengine.registry import WEIGHT_INITIALIZERS, DefaultScope
from narrow_backbones import BACKBONES, narrow_backbone
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from dynperceiver.checkpoint import convert_to_reference
from dynperceiver_det.models import DynPerceiverBackbone, FeatureBranchBackbone, PyramidBackbone

IMAGES = (2, 3, 32, 32)
NAMES = ('resnet18', 'mobilenet_v3_large')
FROZEN = tuple(range(-1, 5))

both = pytest.mark.parametrize('kind', BACKBONES)


def _stage(key: str) -> int:
    """Stage that a tensor or module belongs to by its name; 0 for the stem and the initial latent code."""
    parts = key.removeprefix('network.').split('.')
    if parts[1] in ('stem', 'latent'):
        return 0
    return 4 if parts[1] == 'last_z2x' else int(parts[2]) + 1


def _step(backbone: PyramidBackbone) -> tuple[Tensor, dict[str, Tensor | None]]:
    torch.manual_seed(3)
    loss = sum(feature.square().mean() for feature in backbone(standard_normal(IMAGES)))
    if loss.requires_grad:
        loss.backward()
    return loss.detach(), {key: parameter.grad for key, parameter in backbone.named_parameters()}


@both
@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('frozen_stages', FROZEN)
def test_frozen_stages_do_not_learn(frozen_stages: int, name: str, kind: type[PyramidBackbone]) -> None:
    backbone = narrow_backbone(kind, name, frozen_stages=frozen_stages)
    before = copy.deepcopy(backbone.state_dict())
    for key, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (_stage(key) > frozen_stages), key
    for key, module in backbone.named_modules():
        if isinstance(module, _BatchNorm) or 'drop' in key:
            assert module.training == (_stage(key) > frozen_stages), key
    for key, gradient in _step(backbone)[1].items():
        assert (gradient is not None) == (_stage(key) > frozen_stages), key
    for key, value in backbone.state_dict().items():
        if 'running' in key or 'tracked' in key:
            assert torch.equal(value, before[key]) == (_stage(key) <= frozen_stages), key


def test_freezing_covers_the_latent_branch() -> None:
    backbone = narrow_backbone(DynPerceiverBackbone, frozen_stages=1)
    frozen = {'.'.join(key.split('.')[1:4]) for key, parameter in backbone.named_parameters() if not parameter.requires_grad}
    latent = {f'latent_branch.{part}.0' for part in ('x2z', 'blocks', 'mixers', 'expanders', 'z2x')}
    assert {key for key in frozen if key.startswith('latent')} == latent | {'latent_branch.latent'}
    everything = narrow_backbone(DynPerceiverBackbone, frozen_stages=4)
    assert not any(parameter.requires_grad for parameter in everything.network.latent_branch.last_z2x.parameters())


@both
def test_evaluation_and_training_again(kind: type[PyramidBackbone]) -> None:
    backbone = narrow_backbone(kind, frozen_stages=1, norm_eval=True)
    assert not any(module.training for module in backbone.eval().modules())
    assert backbone.train() is backbone
    assert {module.training for key, module in backbone.named_modules() if 'stages.0.' in key} == {False}
    assert {module.training for key, module in backbone.named_modules() if 'stages.1.' in key} == {True, False}


@both
@pytest.mark.parametrize('norm_eval', [True, False])
def test_norms_keep_their_statistics(norm_eval: bool, kind: type[PyramidBackbone]) -> None:
    backbone = narrow_backbone(kind, norm_eval=norm_eval)
    before = copy.deepcopy(backbone.state_dict())
    assert {module.training for module in backbone.modules() if isinstance(module, _BatchNorm)} == {not norm_eval}
    assert {module.training for module in backbone.modules() if not isinstance(module, _BatchNorm)} == {True}
    gradients = _step(backbone)[1]
    assert all(gradient is not None for gradient in gradients.values()), 'weights of norms learn nevertheless'
    statistics = [key for key in before if 'running' in key]
    assert {torch.equal(backbone.state_dict()[key], before[key]) for key in statistics} == {norm_eval}


@both
@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize(('frozen_stages', 'norm_eval'), [(-1, False), (1, True), (2, False)])
def test_checkpointing_changes_nothing(frozen_stages: int, norm_eval: bool, name: str, kind: type[PyramidBackbone]) -> None:
    results = []
    for with_cp in (False, True):
        backbone = narrow_backbone(kind, name, with_cp=with_cp, drop_path=0.2, frozen_stages=frozen_stages, norm_eval=norm_eval)
        assert {module.with_cp for module in backbone.modules() if hasattr(module, 'with_cp')} == {with_cp}
        results.append((*_step(backbone), backbone.state_dict()))
    (loss, gradients, weights), (same, same_gradients, same_weights) = results
    assert torch.equal(loss, same)
    assert list(weights) == list(same_weights)
    for key, value in weights.items():
        assert torch.equal(value, same_weights[key]), key
    for key, gradient in gradients.items():
        assert (gradient is None) == (same_gradients[key] is None), key
        assert gradient is None or torch.equal(gradient, same_gradients[key]), key


def _own_part(kind: type[PyramidBackbone], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a backbone has of a whole network, under the backbone's names."""
    if kind is DynPerceiverBackbone:
        return {f'network.{key}': value for key, value in weights.items() if not key.startswith('exits.')}
    return {key: value for key, value in weights.items() if key.startswith('feature_branch.')}


def _start(kind: type[PyramidBackbone], path: Path, **changes: Any) -> PyramidBackbone:
    init_cfg = {'type': 'dynperceiver.ImageCheckpoint', 'checkpoint': str(path)}
    backbone = narrow_backbone(kind, init_cfg=init_cfg, frozen_stages=1, norm_eval=True, **changes)
    backbone.init_weights()
    return backbone


@both
@pytest.mark.parametrize('whose', ['ours', 'authors'])
@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (0, 1)])
def test_from_an_image_checkpoint(
    out_indices: tuple[int, ...], whose: str, kind: type[PyramidBackbone], tmp_path: Path, logged: list[tuple[int, str]]
) -> None:
    weights = shared_narrow_model('resnet18').state_dict()
    path = tmp_path / 'image.pth'
    torch.save({'state_dict': weights} if whose == 'ours' else {'model': convert_to_reference(weights)}, path)
    backbone = _start(kind, path, out_indices=out_indices)
    expected = _own_part(kind, weights)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, expected[key]), key
    line = next(line for _, line in logged if 'left out' in line)
    skipped = set(line.rpartition(': ')[2].split(', '))
    assert {key for key in weights if key.startswith('exits.')} <= skipped
    assert len(skipped) == len(weights) - len(backbone.state_dict())
    assert not [line for level, line in logged if level >= logging.WARNING]


@both
def test_from_a_detector_of_ones_own(kind: type[PyramidBackbone], tmp_path: Path) -> None:
    source = narrow_backbone(kind)
    torch.save({'state_dict': {f'backbone.{key}': value + 1 for key, value in source.state_dict().items()}}, tmp_path / 'epoch_12.pth')
    for key, value in _start(kind, tmp_path / 'epoch_12.pth').state_dict().items():
        assert torch.equal(value, source.state_dict()[key] + 1), key


@both
def test_another_variant_is_refused(kind: type[PyramidBackbone], tmp_path: Path) -> None:
    torch.save({'state_dict': shared_narrow_model('mobilenet_v3_large').state_dict()}, tmp_path / 'image.pth')
    with pytest.raises(ValueError, match=r'image\.pth: the checkpoint is of another (variant than the model|feature branch or width)'):
        _start(kind, tmp_path / 'image.pth')
    with pytest.raises(FileNotFoundError, match=r'gone\.pth is missing'):
        _start(kind, tmp_path / 'gone.pth')


@both
@pytest.mark.parametrize(('frozen_stages', 'norm_eval'), [(-1, False), (0, False), (-1, True), (1, True)])
def test_random_weights_that_never_learn_are_worth_a_warning(
    frozen_stages: int, norm_eval: bool, kind: type[PyramidBackbone], logged: list[tuple[int, str]]
) -> None:
    for init_cfg in (None, {'type': 'dynperceiver.ImageCheckpoint', 'checkpoint': None}):
        logged.clear()
        narrow_backbone(kind, frozen_stages=frozen_stages, norm_eval=norm_eval, init_cfg=init_cfg).init_weights()
        warnings = [line for level, line in logged if level == logging.WARNING]
        assert len(warnings) == (frozen_stages >= 0 or norm_eval)
        for warning in warnings:
            assert f'{kind.__name__} starts from random weights with frozen_stages={frozen_stages}, norm_eval={norm_eval}' in warning
            assert '--cfg-options model.backbone.init_cfg.checkpoint=PATH' in warning
            assert '--cfg-options model.backbone.frozen_stages=-1 model.backbone.norm_eval=False' in warning


def test_the_initializer_is_found_from_mmdet(tmp_path: Path) -> None:
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert WEIGHT_INITIALIZERS.build({'type': 'dynperceiver.ImageCheckpoint'}).checkpoint is None
        torch.save({'state_dict': shared_narrow_model('resnet18').state_dict()}, tmp_path / 'image.pth')
        backbone = _start(FeatureBranchBackbone, tmp_path / 'image.pth')
    expected = shared_narrow_model('resnet18').feature_branch.stem[0].weight
    assert torch.equal(backbone.feature_branch.stem[0].weight, expected)
