"""Costs of the model of a config, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from dynperceiver_runtime import UserError

from ..models import find_network
from .flops import count_exit_costs, count_gmacs, meta_copy

__all__ = ['cost_table', 'costs_of_config']


def costs_of_config(cfg: Config, shape: Sequence[int] | None = None) -> dict[str, Any]:
    """Build the model of a config and count.

    Args:
        cfg: Config with a ``model``.
        shape: Height and width in pixels, or one number for a square. Default: ``input_shape`` of the config, or 224x224.

    Returns:
        ``height``, ``width``, ``frames_per_sample``, ``num_params`` of the whole model and of the network, and ``exits``: a list of
        :class:`~dynperceiver.analysis.ExitCost` as dicts. A model without a Dyn-Perceiver has one entry, its backbone's.

    Raises:
        UserError: If the config has no model, or the model neither a Dyn-Perceiver nor a backbone.
    """
    if 'model' not in cfg:
        raise UserError(f'{cfg.filename} has no model; pass the config of a training')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = MODELS.build(cfg.model)
    shape = list(shape or cfg.get('input_shape') or (224,))
    height, width = shape[0], shape[-1]
    network = find_network(model)
    trunk: nn.Module | None = network or getattr(model, 'backbone', None)
    if trunk is None:
        raise UserError(f'{type(model).__name__} holds neither a DynPerceiver nor a backbone; its cost cannot be counted per exit')
    if network is not None:
        costs = [asdict(cost) for cost in count_exit_costs(network, height, width)]
        frames = network.num_frames
    else:
        frames = 1
        gmacs = count_gmacs(meta_copy(trunk), torch.empty(1, 3, height, width, device='meta'))
        params = sum(parameter.numel() for parameter in trunk.parameters())
        costs = [dict(number=1, cost_gmacs=gmacs, segment_gmacs=gmacs, num_params=params)]
    return dict(
        height=height,
        width=width,
        frames_per_sample=frames,
        num_params=sum(parameter.numel() for parameter in model.parameters()),
        network_params=sum(parameter.numel() for parameter in trunk.parameters()),
        has_exits=getattr(trunk, 'exits', None) is not None,
        exits=costs,
    )


def cost_table(report: dict[str, Any]) -> str:
    """What :func:`costs_of_config` found, for people."""
    sample = 'image' if report['frames_per_sample'] == 1 else f'clip of {report["frames_per_sample"]} frames'
    name = 'exit' if report['has_exits'] else 'segment'
    lines = [
        f'cost per {sample} of {report["height"]}x{report["width"]} (1 MAC = 1 FLOP; norms, biases and activations not counted)',
        f'{name:>8}  {"GMACs":>9}  {"of last":>8}  {"step":>9}  {"params":>9}',
    ]
    last = report['exits'][-1]['cost_gmacs']
    lines += [
        f'{row["number"]:>8}  {row["cost_gmacs"]:>9.4g}  {row["cost_gmacs"] / last:>8.1%}  {row["segment_gmacs"]:>9.4g}  '
        f'{row["num_params"] / 1e6:>8.3f}M'
        for row in report['exits']
    ]
    whole, network = report['num_params'] / 1e6, report['network_params'] / 1e6
    lines.append(f'parameters: {whole:.3f} M in the whole model, {network:.3f} M in the network')
    return '\n'.join(lines)
