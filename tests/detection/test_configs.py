"""Every leaf of configs/detection: it builds from any default scope, its data say where they come from, and the metafile knows it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mmengine import registry
from mmengine.config import Config

import dynperceiver_action  # noqa: F401  without its stand-in the scope mmaction cannot be imported from MMAction2's wheel
import dynperceiver_det
from dynperceiver.analysis import count_gmacs, meta_copy

FOLDER = Path(__file__).parents[2] / 'configs' / 'detection'
LEAVES = sorted(path.stem for path in FOLDER.glob('*.py'))
PAPER = [f'{detector}_dynperceiver-{name}_fpn_{schedule}_coco' for detector in ('retinanet', 'faster-rcnn') for schedule in ('1x', '2x')
         for name in ('regnety-1.6gf', 'regnety-800mf', 'r50x0.625', 'mobilenetv3-1.0')]  # fmt: skip

each_leaf = pytest.mark.parametrize('leaf', LEAVES)


@cache
def load(leaf: str) -> Config:
    return Config.fromfile(FOLDER / f'{leaf}.py', format_python_code=False)


SHADOWS: dict[str, Any] = {}
GMACS: dict[tuple[str, tuple[int, int]], float] = {}


def shadow(leaf: str) -> Any:
    """The leaf's detector without memory for its weights, built from another project's default scope; leaves with one model share it."""
    model = load(leaf).model
    if str(model) not in SHADOWS:
        with torch.device('meta'), registry.DefaultScope.overwrite_default_scope('mmaction'):
            SHADOWS[str(model)] = registry.MODELS.build(model)
    return SHADOWS[str(model)]


@cache
def metafile() -> dict[str, dict[str, Any]]:
    models = yaml.safe_load((FOLDER / 'metafile.yml').read_text())['Models']
    return {model['Name']: model for model in models}


def gmacs(leaf: str) -> float:
    """Cost of a leaf's backbone; leaves with the same backbone, frozen or not, share the counting."""
    cfg = load(leaf)
    settings = {key: value for key, value in cfg.model.backbone.items() if key not in ('init_cfg', 'frozen_stages', 'norm_eval')}
    key = (str(settings), tuple(cfg.input_shape))
    if key not in GMACS:
        GMACS[key] = count_gmacs(meta_copy(shadow(leaf).backbone), torch.empty(1, 3, *cfg.input_shape, device='meta'))
    return GMACS[key]


def test_leaves_are_found() -> None:
    assert set(PAPER) <= set(LEAVES)
    assert set(LEAVES) == set(metafile())


@each_leaf
def test_leaf_builds_from_a_foreign_scope_with_a_fitting_neck(leaf: str) -> None:
    model = shadow(leaf)
    channels = list(model.neck.in_channels) if hasattr(model.neck, 'in_channels') else [conv.in_channels for conv in _convs(model.neck)]
    assert channels[: len(model.backbone.out_channels)] == list(model.backbone.out_channels)
    assert type(model).__name__ == load(leaf).model.detector.rpartition('.')[2]


def _convs(neck: Any) -> list[Any]:
    return [layer.conv for layer in neck.convs]  # ChannelMapper


@each_leaf
def test_metafile_says_what_the_leaf_is(leaf: str) -> None:
    model, facts, cfg = shadow(leaf), metafile()[leaf]['Metadata'], load(leaf)
    shape = tuple(cfg.input_shape)
    assert facts['Resolution'] == f'{shape[0]}x{shape[1]}'
    assert facts['Parameters'] == sum(parameter.numel() for parameter in model.parameters())
    assert facts['Epochs'] == cfg.train_cfg.max_epochs
    assert facts['Backbone GMACs'] == pytest.approx(gmacs(leaf), abs=6e-4)
    assert metafile()[leaf]['Config'] == f'configs/detection/{leaf}.py'


@each_leaf
def test_readme_lists_the_leaf(leaf: str) -> None:
    text = (FOLDER / 'README.md').read_text()
    assert f'`{leaf}.py`' in text or f'`{leaf.replace("_1x_", "_{1x,2x}_").replace("_2x_", "_{1x,2x}_")}.py`' in text


@each_leaf
def test_leaf_says_in_its_first_line_what_it_is(leaf: str) -> None:
    assert (FOLDER / f'{leaf}.py').read_text().startswith('# ')


@each_leaf
def test_data_and_hooks_build_from_a_foreign_scope(leaf: str) -> None:
    cfg = load(leaf)
    with registry.DefaultScope.overwrite_default_scope('mmaction'):
        for split in ('train', 'val', 'test'):
            settings = cfg[f'{split}_dataloader'].dataset
            dataset = registry.DATASETS.build(dict(settings, lazy_init=True))
            assert type(dataset).__module__.startswith('dynperceiver_det.')
            assert 'http' in settings.source
            modules = {type(step).__module__.partition('.')[0] for step in dataset.pipeline.transforms}
            assert modules <= {'mmdet', 'mmcv'}
        hooks = [*cfg.default_hooks.values(), *cfg.custom_hooks]
        assert not [hook.type for hook in hooks if registry.HOOKS.get(hook.type) is None]
        assert registry.METRICS.get(cfg.val_evaluator.type) is dynperceiver_det.evaluation.CocoMetric
        assert registry.VISUALIZERS.get(cfg.visualizer.type) is not None
    assert 'mmengine.SyncBuffersHook' in {hook.type for hook in hooks}


@pytest.mark.parametrize('leaf', [name for name in PAPER if '_2x_' in name])
def test_2x_is_1x_for_twice_as_long(leaf: str) -> None:
    once, twice = load(leaf.replace('_2x_', '_1x_')), load(leaf)
    assert twice.model == once.model and twice.optim_wrapper == once.optim_wrapper
    assert (once.train_cfg.max_epochs, twice.train_cfg.max_epochs) == (12, 24)
    steps = [cfg.param_scheduler[1].milestones for cfg in (once, twice)]
    assert steps == [[8, 11], [16, 22]] and twice.param_scheduler[1].end == 24


@pytest.mark.parametrize('leaf', [name for name in LEAVES if 'dynperceiver' not in name])
def test_static_trunk_differs_in_the_backbone_alone(leaf: str) -> None:
    detector, _, rest = leaf.partition('_')
    static, dynamic = load(leaf), load(f'{detector}_dynperceiver-{rest}')
    settings = ('type', 'num_latents', 'depth_factors')
    assert {key: value for key, value in dynamic.model.backbone.items() if key not in settings} == {
        key: value for key, value in _with_defaults(static.model.backbone).items() if key not in settings
    }
    for key in set(static) | set(dynamic):
        if key != 'model':
            assert static[key] == dynamic[key], key
    assert {**static.model, 'backbone': None} == {**dynamic.model, 'backbone': None}


def _with_defaults(backbone: dict[str, Any]) -> dict[str, Any]:
    """What a static leaf leaves at its default and the Dyn-Perceiver's writes out."""
    if 'frozen_stages' in backbone:
        return dict(backbone)
    return dict(backbone, frozen_stages=-1, norm_eval=False, init_cfg=dict(type='dynperceiver.ImageCheckpoint', checkpoint=None))
