"""Networks without exits that a network is compared with: from configs and checkpoints of their own, on the samples of its config."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from dynperceiver_runtime import UserError

from ..calibration.held_out_data import check_held_out
from ..checkpoint.files import read_checkpoint_file
from .arguments import UsageError
from .configs import read_config
from .models import load_backbone

__all__ = ['StaticNetwork', 'load_static', 'test_loader']


@dataclass(frozen=True, eq=False)
class StaticNetwork:
    """A network without exits, and the samples as it wants them.

    Attributes:
        name: Name of its config.
        model: The classifier, with its weights.
        calibration_loader: Loader of the calibration samples, with its own pipeline.
        test_loader: The same of the test samples.
    """

    name: str
    model: nn.Module
    calibration_loader: Any
    test_loader: Any


def _innermost(dataset: Mapping[str, Any], path: str, loader: str) -> Any:
    """Settings of the data set within wrappers around one."""
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    if dataset.get('pipeline') is None:
        raise UsageError(f'{path}: {loader}.dataset has no pipeline; write one data set, or a wrapper around one, with a pipeline')
    return dataset


def _loader(cfg: Config, name: str, pipeline: Any = None) -> Any:
    settings = copy.deepcopy(cfg[name])
    if pipeline is not None:
        _innermost(settings.dataset, str(cfg.filename), name)['pipeline'] = copy.deepcopy(pipeline)
    if settings.get('num_workers') == 0:
        settings.persistent_workers = False
    return Runner.build_dataloader(settings)


def _require_test(cfg: Config, path: str) -> None:
    settings = cfg.get('test_dataloader')
    if not settings:
        raise UsageError(f'{path} has no test_dataloader, the data that choices are judged on; add one, with labels')
    sampler = settings.get('sampler') or {}
    if sampler.get('shuffle', bool(sampler)) or settings.get('drop_last'):
        raise UsageError(
            f'{path}: test_dataloader shuffles its samples or drops the last ones; set '
            "sampler=dict(type='mmengine.DefaultSampler', shuffle=False), and no drop_last"
        )


def test_loader(cfg: Config) -> Any:
    """Loader of the test samples of a config, in a fixed order.

    Raises:
        UsageError: If the config has none, or it shuffles.
        MissingFileError: If its data are missing.
    """
    _require_test(cfg, str(cfg.filename))
    return _loader(cfg, 'test_dataloader')


def load_static(config: str | Path, checkpoint: str | Path, cfg: Config) -> StaticNetwork:
    """Load a network without exits, for the calibration and test samples of another config.

    It sees them as its own ``test_dataloader`` prepares images: its size and its pipeline.

    Args:
        config: Its config.
        checkpoint: Its checkpoint.
        cfg: Config of the network that it is compared with.

    Raises:
        MissingFileError: If a file is missing.
        CheckpointError: If the checkpoint cannot be read.
        UsageError: If the checkpoint does not fit its config, a config lacks what is needed, or the network was trained on the
            calibration samples.
    """
    own = read_config(config)
    model = load_backbone(own, checkpoint)
    _require_test(own, str(config))
    pipeline = _innermost(own.test_dataloader.dataset, str(config), 'test_dataloader')['pipeline']
    loaders = [_loader(cfg, f'{name}_dataloader', pipeline) for name in ('calibration', 'test')]
    _check_not_trained_on(own, checkpoint, loaders[0].dataset)
    return StaticNetwork(Path(config).stem, model, *loaders)


def _check_not_trained_on(own: Config, checkpoint: str | Path, dataset: Any) -> None:
    """What a network was trained on it is too right about to choose by."""
    meta = read_checkpoint_file(checkpoint).get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    text = meta.get('cfg')
    try:
        check_held_out(own, dataset, text if isinstance(text, str) else None, meta.get('split_records'))
    except UserError as error:
        raise UsageError(f'static network {checkpoint}: {error}') from error
