"""Load checkpoints of the authors and of other libraries as if they were ours."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from mmengine.runner.loops import BaseLoop
from torch import Tensor, nn

from dynperceiver_runtime import UserError

from ..checkpoint import (
    CheckpointError,
    convert_from_reference,
    convert_from_trunk,
    find_trunk_names,
    is_reference_state_dict,
    unwrap_checkpoint,
    weights_names,
)
from ..models import DynPerceiver, StaticTrunk, find_networks
from ..registry import HOOKS
from .checkpoint_file import checkpoint_name

__all__ = ['ReferenceCheckpointHook']

OWN_KEY = 'latent_branch.latent'  # there in every network of ours, and without a prefix only in the file of a bare one


@HOOKS.register_module()
class ReferenceCheckpointHook(Hook):
    """Convert the authors' checkpoint while it is loaded, so that ``tools/test.py`` and ``load_from`` take their files as they are.

    Names become ours, and get the prefix under which the network stands in the model (``backbone.`` in a classifier or recognizer). A
    file of a bare network under our names, as ``tools/convert_checkpoint.py`` writes it, gets that prefix, too. The file of a CNN of
    another library (:data:`~dynperceiver.checkpoint.TRUNK_NAMES`) goes into a backbone-only baseline. All other files are left alone. It
    comes before ``EMAHook``, whose averaged weights start as what this hook has made: a test with it tests these weights.

    Args:
        weights: Which weights of the authors' file to take, ``'model'`` or ``'model_ema'``; by default the averaged ones
            (``'model_ema'``) where the file has them.
    """

    priority = 'VERY_HIGH'

    def __init__(self, weights: str | None = None) -> None:
        self.weights = weights

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Convert in place.

        Raises:
            CheckpointError: If the file is to be resumed from, has none of the wanted weights, or the model has no place for them.
        """
        name, is_trunk = checkpoint_name(runner), False
        try:
            state_dict = unwrap_checkpoint(checkpoint)
            if is_reference_state_dict(state_dict):
                converted, source = convert_from_reference(checkpoint, self.weights), self._say_which(checkpoint)
            elif OWN_KEY in state_dict:
                converted, source = state_dict, 'the weights of a bare network'
            elif (names := find_trunk_names(state_dict)) is not None and _has_network(runner.model):
                converted, source = convert_from_trunk(state_dict), f'a CNN under the names of {" and ".join(names.libraries)}'
                is_trunk = True
            else:
                return
        except UserError as error:
            raise CheckpointError(f'{name}: {error}') from error
        model = _innermost(runner.model)
        prefix, network = _trunk_in(model, name) if is_trunk else _network_in(model, name)
        if source == 'the weights of a bare network' and not prefix:
            return
        if runner._resume:
            raise CheckpointError(
                f'{name} cannot be resumed from: it has weights, but no epoch, optimizer and schedule of a training with this project. '
                'To start a new training from it, set load_from=FILE in the config (--cfg-options load_from=FILE) and leave out --resume'
            )
        _check_rest(runner, model, prefix, name)
        unused: tuple[str, ...] = () if isinstance(network, StaticTrunk) else network.unused_prefixes
        weights = {prefix + key: value for key, value in converted.items() if not key.startswith(unused)}
        _replace(checkpoint, weights)
        place = f'into {prefix.rstrip(".")} of the model' if prefix else 'into the model'
        print_log(f'{name}: {source}, {len(weights)} tensors, converted on the fly {place}', logger='current')

    def _say_which(self, checkpoint: Mapping[str, Any]) -> str:
        there = weights_names(checkpoint)
        taken = self.weights or (there[0] if there else None)
        if taken is None:
            return "the authors' weights"
        others = ', '.join(name for name in there if name != taken)
        choice = f" (it also has {others}, which the hook's option weights chooses)" if others else ''
        return f"the authors' weights under {taken}{choice}"


def _innermost(model: nn.Module) -> nn.Module:
    """The model to which the names of a checkpoint refer."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        inner = model.module
        assert isinstance(inner, nn.Module)
        model = inner
    return model


def _has_network(model: nn.Module) -> bool:
    """Whether a model has a network of ours; others may have the names of other libraries themselves."""
    return any(isinstance(module, DynPerceiver | StaticTrunk) for module in model.modules())


def _network_in(model: nn.Module, checkpoint: str) -> tuple[str, DynPerceiver]:
    """Prefix of the one Dyn-Perceiver in a model, and the network."""
    found = find_networks(model)
    if len(found) != 1:
        raise CheckpointError(
            f"{checkpoint} has the weights of one Dyn-Perceiver, but {type(model).__name__} has {len(found)} such networks; "
            "for the CNN of a backbone-only baseline, set init_cfg=dict(type='dynperceiver.ImageCheckpoint', checkpoint=...)"
        )
    ((name, network),) = found.items()
    return (f'{name}.' if name else ''), network


def _trunk_in(model: nn.Module, checkpoint: str) -> tuple[str, StaticTrunk]:
    """Prefix of the one backbone-only baseline in a model, and the baseline."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, StaticTrunk)]
    if len(found) != 1:
        raise CheckpointError(
            f'{checkpoint} has the weights of a CNN alone, but {type(model).__name__} has {len(found)} backbone-only baselines; to start a '
            "training of another network from it, set init_cfg=dict(type='dynperceiver.ImageCheckpoint', checkpoint=...)"
        )
    ((name, trunk),) = found
    return (f'{name}.' if name else ''), trunk


def _check_rest(runner: Runner, model: nn.Module, prefix: str, checkpoint: str) -> None:
    """Tensors that the file does not have may be random when a training starts, but not in a test."""
    rest = [key for key in model.state_dict() if not key.startswith(prefix)]
    if not rest:
        return
    parts = ', '.join(dict.fromkeys(key.partition('.')[0] for key in rest))
    fact = f'{checkpoint} has the image network only; {len(rest)} tensors of {type(model).__name__} are not in it ({parts})'
    # A runner builds the loops of what it was told to do before it loads, and those of a training before all others.
    testing = any(isinstance(loop, BaseLoop) for loop in (runner._test_loop, runner._val_loop))
    if testing and not isinstance(runner._train_loop, BaseLoop):
        raise CheckpointError(
            f'{fact} and would be random in the test. Train the model from this file (load_from), then test the trained checkpoint'
        )
    print_log(f'{fact} and keep their initial values', logger='current', level=logging.WARNING)


def _replace(checkpoint: dict[str, Any], weights: dict[str, Tensor]) -> None:
    meta = checkpoint.get('meta', {})
    checkpoint.clear()
    checkpoint.update(meta=meta, state_dict=weights)
