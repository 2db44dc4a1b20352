"""Build the model of a config, with the weights of a checkpoint where one is given."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from dynperceiver_runtime import UserError

from ..checkpoint import read_state_dict
from ..models import DynPerceiver, network_with_exits
from .arguments import UsageError
from .configs import require_model

__all__ = ['load_backbone', 'load_network']


def _build(cfg: Config) -> nn.Module:
    require_model(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model: nn.Module = MODELS.build(cfg.model)
    return model.eval()


def _load(network: nn.Module, cfg: Config, checkpoint: str | Path) -> None:
    state_dict = read_state_dict(checkpoint)
    try:
        network.load_state_dict(state_dict)
    except (RuntimeError, UserError) as error:  # torch's, of names and shapes, and that of another variant
        raise UsageError(f'{checkpoint} does not fit {cfg.filename}: {error}') from error


def load_network(cfg: Config, checkpoint: str | Path | None = None) -> tuple[nn.Module, DynPerceiver]:
    """The config's model, and within it the network with exits.

    Args:
        cfg: Config of a classifier or recognizer.
        checkpoint: Checkpoint file of this config, or the authors' file of this network; every tensor must fit. Default: random weights.

    Raises:
        NetworkError: If the model holds no network with exits.
        CheckpointError: If the file is missing or cannot be read.
        UsageError: If the config has no model, or the checkpoint does not go with it.
    """
    model = _build(cfg)
    network = network_with_exits(model)
    if checkpoint is not None:
        _load(network, cfg, checkpoint)
    return model, network


def load_backbone(cfg: Config, checkpoint: str | Path) -> nn.Module:
    """The config's model with the weights of its backbone, of any kind, such as a backbone-only baseline.

    Raises:
        CheckpointError: If the file is missing or cannot be read.
        UsageError: If the config has no model, the model no backbone, or the checkpoint does not go with it.
    """
    model = _build(cfg)
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, nn.Module):
        raise UsageError(f'{cfg.filename}: {type(model).__name__} has no backbone; pass the config of a classifier')
    _load(backbone, cfg, checkpoint)
    return model
