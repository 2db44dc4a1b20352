"""This repository's leaves of classification, as they are and made so small that they train in seconds, and batches of random images."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from mmengine import registry
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn

from dynperceiver.analysis import count_exit_costs, count_gmacs, meta_copy
from dynperceiver_cls import ClsDataSample

__all__ = [
    'CLASSIFICATION',
    'IMAGENET_LEAVES',
    'LEAVES',
    'NUM_CLASSES',
    'PUBLISHED',
    'SMALL',
    'exit_gmacs',
    'load_leaf',
    'metafile',
    'random_batch',
    'shadow_of',
    'tiny_model',
]

CLASSIFICATION = Path(__file__).resolve().parents[2] / 'configs' / 'classification'
LEAVES = sorted(path.stem for path in CLASSIFICATION.glob('*.py'))
IMAGENET_LEAVES = [leaf for leaf in LEAVES if leaf.endswith('_8xb128_in1k')]
PUBLISHED = [f'dynperceiver-{name}_8xb128_in1k' for name in ('regnety-800mf', 'r50x0.375', 'mobilenetv3-0.75')]
NUM_CLASSES = 5

SMALL: dict[str, dict[str, Any]] = {  # by the type of a backbone
    'dynperceiver.DynPerceiver': dict(
        feature_branch='resnet18', width=0.125, num_latents=16, depth_factors=(1 / 3, 1 / 3, 1 / 9, 1 / 3), num_classes=NUM_CLASSES
    ),
    'dynperceiver.StaticTrunk': dict(feature_branch='resnet18', width=0.125, num_classes=NUM_CLASSES),
}


@cache
def _loaded(leaf: str) -> Config:
    return Config.fromfile(CLASSIFICATION / f'{leaf}.py', format_python_code=False)


def load_leaf(leaf: str) -> Config:
    """A leaf's config, which tests may change."""
    return copy.deepcopy(_loaded(leaf))


@cache
def metafile() -> dict[str, dict[str, Any]]:
    """Models of the metafile by name."""
    models = yaml.safe_load((CLASSIFICATION / 'metafile.yml').read_text())['Models']
    return {model['Name']: model for model in models}


@cache
def shadow_of(leaf: str, scope: str = 'mmengine') -> nn.Module:
    """The leaf's whole model without memory for its weights, built from a default scope; tests must not change it."""
    with torch.device('meta'), registry.DefaultScope.overwrite_default_scope(scope):
        model: nn.Module = MODELS.build(_loaded(leaf).model)
    return model


_GMACS: dict[str, tuple[float, ...]] = {}


def exit_gmacs(leaf: str) -> tuple[float, ...]:
    """Giga-MACs per image at every exit of a leaf; leaves with the same backbone share the counting."""
    cfg, network = _loaded(leaf), shadow_of(leaf).backbone
    height, width = cfg.get('input_shape', (224, 224))
    key = f'{sorted(cfg.model.backbone.items())} {height}x{width}'
    if key in _GMACS:
        return _GMACS[key]
    if hasattr(network, 'segments'):
        _GMACS[key] = tuple(cost.cost_gmacs for cost in count_exit_costs(network, height, width))
    else:
        _GMACS[key] = (count_gmacs(meta_copy(network), torch.empty(1, 3, height, width, device='meta')),)
    return _GMACS[key]


def tiny_model(leaf: str, **backbone: Any) -> nn.Module:
    """The leaf's model on a narrow ResNet-18 with five classes; switches, loss and augmentation stay the leaf's.

    Args:
        leaf: Name of the leaf.
        backbone: Further settings of the network.
    """
    settings = copy.deepcopy(_loaded(leaf).model)
    settings.backbone.update({**SMALL[settings.backbone.type], **backbone})
    if settings.data_preprocessor.get('mixing'):
        settings.data_preprocessor.mixing.num_classes = NUM_CLASSES
    model: nn.Module = MODELS.build(settings)
    return model


def random_batch(num_images: int = 8, size: int | tuple[int, int] = 64, num_classes: int = NUM_CLASSES, seed: int = 0) -> dict[str, Any]:
    """Random images as the loader gives them, labelled in turn."""
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(seed)
    images_BHWC: Tensor = torch.randint(0, 256, (num_images, height, width, 3), dtype=torch.uint8, generator=generator)
    samples = []
    for number in range(num_images):
        sample = ClsDataSample(metainfo=dict(img_path=f'image{number}.png', sample_idx=number, ori_shape=(height, width)))
        sample.gt_label = number % num_classes
        samples.append(sample)
    return {'inputs': images_BHWC.permute(0, 3, 1, 2), 'data_samples': samples}
