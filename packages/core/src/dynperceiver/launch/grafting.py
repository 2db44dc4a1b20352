"""Grafting as command lines do it: from a config and a checkpoint to a config and a checkpoint of the same network with exits."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn

from dynperceiver_runtime import UsageError
from dynperceiver_runtime.files import make_folders, open_atomically

from ..calibration.held_out_data import fingerprint_of_samples
from ..checkpoint import read_state_dict
from ..data import innermost_datasets, split_records
from ..deployment.fingerprints import fingerprint_of_network
from ..grafting import CachedMaps, Proposal, cache_form, fill_cache, network_from_function, open_cache, propose_cuts
from ..hooks.resumable_randomness import SeedSample
from ..models import DynPerceiver, StaticTrunk, find_network
from .configs import require_model

__all__ = ['Graft', 'SplitViews', 'build_graft', 'cache_split', 'find_proposals', 'grafted_config', 'save_graft', 'source_network']

STAGES = {'stem': 0, 'stage1': 1, 'stage2': 2, 'stage3': 3}  # what stands before the exit, to the number of its map
STAGES |= {'feature_branch.stem' if number == 0 else f'feature_branch.stages.{number - 1}': number for number in range(4)}
PROBED_SAMPLES = 600
NO_TRUNK = (
    'model.backbone is a {}; exits are grafted onto a dynperceiver.StaticTrunk, or with --model package.module:function onto a network of '
    'any make'
)


@dataclass(frozen=True)
class Graft:
    """A network with exits to be trained, within the model of its task.

    Attributes:
        cfg: Config of the result.
        model: The model, with the weights of the trunk.
        network: The network in it.
    """

    cfg: Config
    model: Any
    network: DynPerceiver


def _trunk_config(cfg: Config, function: str | None, weights: str | None, cuts: Sequence[str], image_size: Sequence[int]) -> dict[str, Any]:
    """What a trunk is in the config of a Dyn-Perceiver."""
    backbone = cfg.model.get('backbone', {})
    if function is not None:
        network = dict(type='dynperceiver.NetworkFromFunction', function=function, weights=weights)
        return dict(feature_branch=dict(type='dynperceiver.CutNetwork', network=network, cuts=list(cuts), image_size=list(image_size)))
    if backbone.get('type') not in ('dynperceiver.StaticTrunk', 'StaticTrunk'):
        raise UsageError(f'{cfg.filename}: {NO_TRUNK.format(backbone.get("type"))}')
    if all(name in STAGES for name in cuts):
        kept = {name: backbone[name] for name in ('feature_branch', 'width') if name in backbone}
        return dict(kept, read_maps=[STAGES[name] for name in cuts])
    network = {name: value for name, value in backbone.items() if name != 'frozen_stages'}
    return dict(feature_branch=dict(type='dynperceiver.CutNetwork', network=network, cuts=list(cuts), image_size=list(image_size)))


def grafted_config(
    cfg: Config,
    cuts: Sequence[str],
    image_size: Sequence[int],
    *,
    function: str | None = None,
    weights: str | None = None,
    unlabelled: bool = False,
    **branch: Any,
) -> Config:
    """Config of the network with exits.

    Args:
        cfg: Config of the network as it is, or with ``function`` of a classifier's data.
        cuts: ``stem``, ``stage1`` .. ``stage3`` of a backbone-only baseline, or names of modules, see
            :func:`~dynperceiver.grafting.find_cuts`.
        image_size: Height and width of the images in pixels.
        function: ``package.module:function`` that makes the network.
        weights: File with its weights.
        unlabelled: Whether the exits learn from the network alone.
        branch: Settings of the latent branch, such as ``latent_width``; see :func:`~dynperceiver.build_model`.

    Raises:
        UsageError: If the config's model is no backbone-only baseline.
    """
    require_model(cfg)
    trunk = _trunk_config(cfg, function, weights, cuts, image_size)
    grafted = copy.deepcopy(cfg)
    num_classes = cfg.model.backbone.num_classes
    backbone = dict(type='dynperceiver.DynPerceiver', **trunk, num_classes=num_classes, **branch, frozen_trunk=True)
    num_exits = len(cuts) + 1
    weight = 0.0 if unlabelled else 1.0
    loss = dict(cfg.model.get('loss') or {'type': 'dynperceiver.MultiExitLoss'})
    loss.update(exit_weights=[weight] * (num_exits - 1) + [0.0], distill_weight=1.0)
    grafted.model.backbone, grafted.model.loss = backbone, loss
    grafted.model.init_cfg = None
    grafted.load_from = None
    hook = grafted.get('default_hooks', {}).get('checkpoint')
    if hook is not None and hook.get('save_best'):
        hook.save_best = f'acc/exit{num_exits}_top1'
    return grafted


def source_network(source: Config, checkpoint: str | None, function: str | None = None, weights: str | None = None) -> nn.Module:
    """The network as it is, with its weights.

    Args:
        source: Its config, or with ``function`` that of a classifier's data.
        checkpoint: Its checkpoint.
        function: ``package.module:function`` that makes it.
        weights: File with its weights then.

    Raises:
        CheckpointError: If the checkpoint is missing, cannot be read, or is of another network.
    """
    init_default_scope(source.get('default_scope', 'mmengine'))
    if function is not None:
        return network_from_function(function, weights)
    backbone = MODELS.build(dict(source.model, init_cfg=None)).backbone
    if not isinstance(backbone, StaticTrunk):
        raise UsageError(f'{source.filename}: {NO_TRUNK.format(type(backbone).__name__)}')
    assert checkpoint is not None
    backbone.load_state_dict(read_state_dict(checkpoint))
    return backbone


def find_proposals(source: Config, network: nn.Module, image_size: Sequence[int]) -> list[Proposal]:
    """Points worth an exit, with probes on some validation images; see :func:`~dynperceiver.grafting.propose_cuts`.

    Args:
        source: See :func:`source_network`.
        network: The network as it is.
        image_size: Height and width of the images in pixels.
    """
    model: Any = MODELS.build(dict(source.model, init_cfg=None))
    views, seen = SplitViews(source, model, 'val', unlabelled=True), 0

    def batches() -> Iterator[Tensor]:
        nonlocal seen
        for images, _ in views.batches(0, 0):
            yield images
            seen += len(images)
            if seen >= PROBED_SAMPLES:
                return

    return propose_cuts(network, torch.randn(2, 3, *image_size), batches())


def build_graft(cfg: Config, source: Config, checkpoint: str | None = None) -> Graft:
    """Build the network with exits, and give its trunk the weights of the network as it is.

    Args:
        cfg: See :func:`grafted_config`.
        source: Config of the network as it is.
        checkpoint: Its checkpoint; ``None`` where a function made it.

    Raises:
        CheckpointError: If the checkpoint is missing, cannot be read, or is of another network.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    trained: Any = None
    settings = copy.deepcopy(cfg.model)
    if checkpoint is not None:
        trained = source_network(source, checkpoint)
        branch = settings.backbone.feature_branch
        if isinstance(branch, Mapping):
            settings.backbone.feature_branch = dict(branch, network=trained)
    model: Any = MODELS.build(settings)
    network = find_network(model)
    assert network is not None and network.exits is not None
    if trained is not None and network.feature_branch.own_exit is None:
        network.feature_branch.load_state_dict(trained.feature_branch.state_dict())
        network.exits[network.exits.trunk_exit_index].load_state_dict(trained.exits[0].state_dict())
    return Graft(cfg, model.eval(), network)


def _with_pipeline(dataset: Any, pipeline: Any) -> Any:
    """Config of a data set, or of a wrapper around one, with another pipeline, and broken samples refused."""
    dataset = copy.deepcopy(dataset)
    inner = dataset
    while 'dataset' in inner:
        inner = inner['dataset']
    inner['pipeline'] = pipeline
    inner['test_mode'] = True
    return dataset


def _pipeline(dataset: Any) -> Any:
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset['pipeline']


class SplitViews:
    """The data of a split in several views: the first as validation sees them, the others augmented, each always the same.

    Args:
        cfg: The config.
        model: The model, for its data preprocessor.
        split: ``'train'``, ``'val'``, ``'calibration'`` or ``'test'``.
        seed: Of the augmentation.
        unlabelled: Whether samples need no label.
    """

    def __init__(self, cfg: Config, model: Any, split: str = 'train', seed: int = 0, unlabelled: bool = False) -> None:
        self.cfg, self.model, self.seed, self.unlabelled = cfg, model, seed, unlabelled
        dataset = cfg[f'{split}_dataloader'].dataset
        self.plain = _with_pipeline(dataset, _pipeline(cfg.val_dataloader.dataset))
        self.augmented = _with_pipeline(dataset, _pipeline(cfg.train_dataloader.dataset))
        self.dataset = DATASETS.build(self.plain)

    @property
    def fingerprint(self) -> str:
        """Of the samples, their pipelines and what is done to them."""
        text = json.dumps([self.plain, self.augmented, self.seed, self.unlabelled], sort_keys=True, default=str)
        return hashlib.sha256((fingerprint_of_samples(self.dataset) + text).encode()).hexdigest()

    def sample(self) -> Tensor:
        """One sample as the network takes it."""
        images, _ = next(iter(self.batches(0, len(self.dataset) - 1)))
        return images

    def batches(self, view: int, first: int) -> Iterable[tuple[Tensor, np.ndarray]]:
        """Batches of a view, from a sample on: images and class numbers."""
        dataset = DATASETS.build(self.augmented) if view else self.dataset
        if view:
            for inner in innermost_datasets(dataset):
                inner.pipeline.transforms.insert(0, SeedSample(self.seed, torch.full((1,), view)))
        loader_settings = self.cfg.val_dataloader
        loader = Runner.build_dataloader(
            dict(
                batch_size=loader_settings.batch_size,
                num_workers=loader_settings.get('num_workers', 0),
                sampler=dict(type='mmengine.DefaultSampler', shuffle=False),
                collate_fn=loader_settings.get('collate_fn', dict(type='pseudo_collate')),
                dataset=torch.utils.data.Subset(dataset, range(first, len(dataset))),
            )
        )
        for batch in loader:
            with torch.inference_mode():
                processed = self.model.data_preprocessor(dict(batch), False)
            images, samples = processed['inputs'], processed['data_samples']
            labels = [0 if self.unlabelled else int(np.asarray(sample.get('gt_label')).reshape(-1)[0]) for sample in samples]
            yield (images.flatten(0, 1) if images.dim() == 5 else images), np.array(labels, np.int64)


def cache_split(graft: Graft, views: SplitViews, num_views: int, folder: Path, show: bool = True) -> CachedMaps:
    """Run the trunk over the data of a split, or over what is missing of them in the cache.

    Args:
        graft: The network.
        views: The data of the split.
        num_views: Views of each sample.
        folder: Folder of caches.
        show: Whether to say the size and show progress.
    """
    network = graft.network
    trunk = fingerprint_of_network(network, parts=('feature_branch.', f'exits.{network.exits.trunk_exit_index}.'))  # type: ignore[union-attr]
    reads = [list(parts.stages('read')) for parts in network.segment_parts]
    key = hashlib.sha256(f'{trunk} {views.fingerprint} {reads}'.encode()).hexdigest()
    form = cache_form(network, views.sample(), key, num_views, len(views.dataset))
    place = folder / hashlib.sha256(repr(form).encode()).hexdigest()[:12]  # other views and maps have a place of their own
    cache, done = open_cache(place, form)
    missing = num_views * form.num_samples - sum(done)
    if show and missing:
        print(f'{missing} of {num_views * form.num_samples} samples to run once; their maps take {form.num_bytes / 1e6:.0f} MB in {place}')
    start, before = time.monotonic(), sum(done)

    def progress(now: int, total: int) -> None:
        rate = (now - before) / max(time.monotonic() - start, 1e-9)
        text = f'{now}/{total} samples, {rate:.0f} per second, {(total - now) / max(rate, 1e-9):.0f} s left'
        if sys.stderr.isatty():
            print(f'\r{text}   ', end='' if now < total else '\n', file=sys.stderr, flush=True)
        elif now == total:
            print(text, file=sys.stderr, flush=True)

    return fill_cache(network, cache, done, views.batches, progress if show else lambda now, total: None)


def save_graft(graft: Graft, out_dir: Path, views: SplitViews, meta: Mapping[str, Any] | None = None) -> tuple[Path, Path]:
    """Write the config and the checkpoint that the other tools take.

    Returns:
        Their paths.
    """
    make_folders(out_dir)
    config, checkpoint = out_dir / 'graft.py', out_dir / 'graft.pth'
    cfg = copy.deepcopy(graft.cfg)
    object.__setattr__(cfg, '_format_python_code', False)
    text = cfg.pretty_text
    with open_atomically(config, 'w', 'config') as file:
        file.write(text)
    content = {
        'state_dict': graft.model.state_dict(),
        'meta': {
            'cfg': text,
            'dataset_meta': dict(views.dataset.metainfo),
            'split_records': split_records(views.dataset),
            **(meta or {}),
        },
    }
    with open_atomically(checkpoint, what='checkpoint') as file:
        torch.save(content, file)
    return config, checkpoint
