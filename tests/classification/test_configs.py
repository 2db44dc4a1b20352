"""Every leaf of configs/classification: it builds from any default scope, its data say where they come from, and the metafile knows it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from mmengine import registry
from mmengine.config import Config
from tiny_classification import CLASSIFICATION, IMAGENET_LEAVES, LEAVES, PUBLISHED, exit_gmacs, load_leaf, metafile, shadow_of

import dynperceiver_action  # noqa: F401  without its stand-in the scope mmaction cannot be imported from MMAction2's wheel

README = CLASSIFICATION / 'README.md'
STATIC = [leaf for leaf in LEAVES if not leaf.startswith('dynperceiver')]
LEAN = [leaf for leaf in LEAVES if leaf.startswith('dynperceiver-lean')]
SCOPES = ('mmdet', 'mmaction', 'mmengine')
NETWORK = ('feature_branch', 'width', 'num_latents', 'depth_factors')
ACCURACIES = {  # of the authors' checkpoints, exits 1 to 4
    'regnety-800mf': '68.62 | 78.32 | 79.15 | 79.86',
    'r50x0.375': '72.93 | 77.52 | 74.32 | 77.70',
    'mobilenetv3-0.75': '53.13 | 71.65 | 71.89 | 74.59',
}

each_leaf = pytest.mark.parametrize('leaf', LEAVES)


def _first_steps(pipeline: list[dict[str, Any]]) -> tuple[str, str]:
    return pipeline[0]['type'], pipeline[-1]['type']


def test_leaves_are_found() -> None:
    assert set(PUBLISHED) <= set(LEAVES)
    assert set(LEAVES) == set(metafile())
    assert len(IMAGENET_LEAVES) == 32 and len(STATIC) == 6 and len(LEAN) == 1


@each_leaf
def test_leaf_builds_from_a_foreign_scope(leaf: str) -> None:
    scope = SCOPES[LEAVES.index(leaf) % 2]
    model = shadow_of(leaf, scope) if leaf in PUBLISHED else shadow_of(leaf)
    assert type(model).__module__ == 'dynperceiver_cls.models.classifier'
    loss = model.loss_module
    assert len(loss.exit_weights) == (1 if leaf in STATIC else 3 if leaf in LEAN else 4) == len(model.backbone.exits)
    mixing = model.data_preprocessor.mixing
    assert mixing is None or mixing.num_classes == model.backbone.num_classes


@each_leaf
@pytest.mark.parametrize('scope', SCOPES)
def test_data_hooks_and_metrics_are_found_from_any_scope(leaf: str, scope: str) -> None:
    cfg = load_leaf(leaf)
    with registry.DefaultScope.overwrite_default_scope(scope):
        for split in ('train', 'val', 'test'):
            loader = cfg[f'{split}_dataloader']
            dataset = registry.DATASETS.build(dict(loader.dataset, lazy_init=True))
            assert type(dataset).__module__.startswith('dynperceiver_cls.datasets.')
            assert loader.dataset.source == cfg.source == dataset.source
            assert 'http' in cfg.source or cfg.source.startswith(('you: ', 'tools/'))
            assert dataset.test_mode == (split != 'train')
            assert {type(step).__module__.partition('.')[0] for step in dataset.pipeline.transforms} == {'dynperceiver_cls'}
            assert _first_steps(loader.dataset.pipeline) == ('dynperceiver_cls.LoadImage', 'dynperceiver_cls.PackInputs')
            assert registry.FUNCTIONS.get(loader.collate_fn.type) is not None
            assert registry.DATA_SAMPLERS.get(loader.sampler.type) is not None
            assert loader.sampler.shuffle == (split == 'train')
        hooks = [*cfg.default_hooks.values(), *cfg.custom_hooks]
        assert not [hook.type for hook in hooks if registry.HOOKS.get(hook.type) is None]
        assert not [hook.ema_type for hook in hooks if 'ema_type' in hook and registry.MODELS.get(hook.ema_type) is None]
        for metric in [*cfg.val_evaluator, *cfg.test_evaluator]:
            assert type(registry.METRICS.build(metric)).__module__.startswith('dynperceiver.metrics')
        assert registry.OPTIM_WRAPPER_CONSTRUCTORS.get(cfg.optim_wrapper.get('constructor', 'DefaultOptimWrapperConstructor')) is not None
        assert not [one.type for one in cfg.param_scheduler if registry.PARAM_SCHEDULERS.get(one.type) is None]
        assert registry.VISUALIZERS.get(cfg.visualizer.type) is not None
    assert {'mmengine.SyncBuffersHook', 'dynperceiver.NonFiniteLossHook', 'dynperceiver.SkippedSampleHook'} <= {hook.type for hook in hooks}
    assert cfg.custom_imports.imports == ['dynperceiver_cls'] and cfg.default_scope == 'mmengine'


@each_leaf
def test_the_best_checkpoint_is_chosen_by_an_exit_that_is_there(leaf: str) -> None:
    cfg = load_leaf(leaf)
    checkpoint = cfg.default_hooks.checkpoint
    assert checkpoint.save_best == f'acc/exit{len(shadow_of(leaf).backbone.exits)}_top1'
    assert checkpoint.rule == 'greater' and checkpoint.max_keep_ckpts <= 5
    assert cfg.train_cfg.max_epochs % cfg.train_cfg.val_interval == 0, 'the last epoch is validated'


@each_leaf
def test_classes_of_model_and_data_agree(leaf: str) -> None:
    cfg = load_leaf(leaf)
    assert cfg.model.backbone.num_classes == cfg.num_classes
    classes = cfg.train_dataloader.dataset.get('metainfo', {}).get('classes')
    assert classes is None or isinstance(classes, str) or len(classes) == cfg.num_classes  # a string is a file that comes with the data


@each_leaf
def test_metafile_says_what_the_leaf_is(leaf: str) -> None:
    model, facts, cfg = shadow_of(leaf), metafile()[leaf]['Metadata'], load_leaf(leaf)
    assert facts['Resolution'] == '{}x{}'.format(*cfg.get('input_shape', (224, 224)))
    assert facts['Parameters'] == sum(parameter.numel() for parameter in model.parameters())
    assert facts['Epochs'] == cfg.train_cfg.max_epochs
    assert facts['GMACs per exit'] == pytest.approx(exit_gmacs(leaf), abs=6e-4)
    assert facts['Architecture'] == [cfg.model.backbone.feature_branch, *(['DynPerceiver'] if leaf not in STATIC else [])]
    assert metafile()[leaf]['Config'] == f'configs/classification/{leaf}.py'


@each_leaf
def test_images_have_the_size_whose_cost_is_listed(leaf: str) -> None:
    cfg = load_leaf(leaf)
    for split in ('train', 'val', 'test'):
        steps = [step for step in cfg[f'{split}_dataloader'].dataset.pipeline if 'size' in step]
        assert steps or split != 'train'
        assert not steps or (steps[-1]['size'],) * 2 == tuple(cfg.get('input_shape', (224, 224)))


@each_leaf
def test_readme_lists_the_leaf_with_its_numbers(leaf: str) -> None:
    facts = metafile()[leaf]['Metadata']
    (row,) = re.findall(rf'^\| `{re.escape(leaf)}\.py` \| (.*/.*|.* M) \|$', README.read_text(), re.MULTILINE)
    cells = [cell.strip() for cell in row.split('|')]
    assert cells[0] == facts['Training Data']
    assert cells[-3:] == [
        str(facts['Epochs']),
        ' / '.join(f'{gmacs:.3f}' for gmacs in facts['GMACs per exit']),
        f'{facts["Parameters"] / 1e6:.1f} M',
    ]
    latents = load_leaf(leaf).model.backbone.get('num_latents')
    assert (f', {latents} latents' if latents else ', backbone-only baseline') in cells[1]


@pytest.mark.parametrize('name', ACCURACIES)
def test_readme_says_what_the_authors_published(name: str) -> None:
    text = README.read_text()
    assert f'| `dynperceiver-{name}_8xb128_in1k.py` | {ACCURACIES[name]} |' in text
    assert '**as published, not measured here**' in text
    assert 'tools/test.py configs/classification/dynperceiver-regnety-800mf_8xb128_in1k.py AUTHORS.pth' in text


def test_readme_names_no_other_config() -> None:
    data = 'in1k|caltech100|cifar100?|cifar10-official|image-folder|csv-images|demo'
    named = set(re.findall(rf'[\w.-]+_(?:{data})(?=\.py)', README.read_text()))
    assert named == set(LEAVES)


def test_readmes_config_for_ones_own_images(tmp_path: Path) -> None:
    (block,) = re.findall(r'```python\n(.*?)```', README.read_text(), re.DOTALL)
    (tmp_path / 'own.py').write_text(block.replace("'configs/", f"'{CLASSIFICATION.parent}/"))
    cfg = Config.fromfile(tmp_path / 'own.py')
    assert {cfg[f'{split}_dataloader'].dataset.data_root for split in ('train', 'val', 'test')} == {'data/flowers'}
    assert cfg.model.init_cfg == dict(type='dynperceiver.ImageCheckpoint', checkpoint='AUTHORS.pth')
    assert registry.MODELS.build(dict(cfg.model, init_cfg=None)).backbone.num_classes == 5


@each_leaf
def test_leaf_says_in_its_first_line_what_it_is(leaf: str) -> None:
    assert (CLASSIFICATION / f'{leaf}.py').read_text().startswith('# ')


@pytest.mark.parametrize('leaf', STATIC)
def test_static_trunk_differs_in_backbone_and_exits_alone(leaf: str) -> None:
    static, dynamic = load_leaf(leaf), load_leaf(f'dynperceiver-{leaf}')
    ours = ('type', 'num_latents', 'depth_factors')
    assert static.model.backbone.type == 'dynperceiver.StaticTrunk'
    assert {key: value for key, value in dynamic.model.backbone.items() if key not in ours} == {
        key: value for key, value in static.model.backbone.items() if key not in ours
    }
    assert static.model.loss == {**dynamic.model.loss, 'exit_weights': static.model.loss.exit_weights}
    assert static.default_hooks.checkpoint == {**dynamic.default_hooks.checkpoint, 'save_best': 'acc/exit1_top1'}
    for cfg in (static, dynamic):
        cfg.default_hooks.pop('checkpoint')
        cfg.model.update(backbone=None, loss=None)
    for key in set(static) | set(dynamic):
        assert static[key] == dynamic[key], key


def test_every_full_size_network_of_the_other_tasks_has_its_image_leaf() -> None:
    """So that their ``ImageCheckpoint`` finds a checkpoint of the same variant."""

    def variant(backbone: dict[str, Any]) -> tuple[Any, ...]:
        return tuple({'width': 1.0, **backbone}[key] for key in NETWORK)

    here = {variant(load_leaf(leaf).model.backbone) for leaf in IMAGENET_LEAVES if leaf not in STATIC}
    wanted = {}
    for path in sorted(CLASSIFICATION.parent.glob('action/tsm_*.py')):
        wanted[path.stem] = Config.fromfile(path, format_python_code=False).model.backbone
    # Where the detectors' networks come from, which needs no mmdet to be read.
    (path,) = (CLASSIFICATION.parent / '_base_' / 'backbones').glob('dynperceiver_regnety-1.6gf.py')
    wanted['detection'] = Config.fromfile(path).dynperceiver
    full_size = {name: variant(backbone) for name, backbone in wanted.items() if backbone['num_latents'] >= 128}
    assert len(set(full_size.values())) >= 6
    assert not {name: network for name, network in full_size.items() if network not in here}
