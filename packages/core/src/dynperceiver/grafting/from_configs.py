"""Networks to be cut, and cut ones, as configs name them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dynperceiver_runtime import UserError

from ..checkpoint import read_checkpoint_file
from ..registry import MODELS
from .cuts import CutNetwork, cut_network

__all__ = ['build_cut_network', 'network_from_function']


def network_from_function(function: str, weights: str | None = None, **arguments: Any) -> nn.Module:
    """A network that a function of any installed package makes.

    Args:
        function: ``package.module:function``.
        weights: File with its state dict, or with one under ``state_dict`` or ``model``; every tensor must fit.
        arguments: Of the function.

    Raises:
        UserError: If there is no such function, it makes no module, or the weights do not fit.
    """
    module_name, _, name = function.partition(':')
    try:
        make = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f'{function}: there is no such function ({error}); write package.module:function, and for a file of your own set PYTHONPATH '
            'to its folder'
        ) from error
    network = make(**arguments)
    if not isinstance(network, nn.Module):
        raise UserError(f'{function} gave a {type(network).__name__}, but a torch.nn.Module is expected')
    if weights is not None:
        content = read_checkpoint_file(weights)
        keys = ('state_dict', 'model', 'model_state_dict')
        inner = next((content[key] for key in keys if isinstance(content.get(key), Mapping)), content)
        try:
            network.load_state_dict({key.removeprefix('module.'): value for key, value in inner.items()})
        except (RuntimeError, TypeError, AttributeError) as error:
            text = ' '.join(str(error).split())
            raise UserError(f'{weights} does not fit the network of {function}: {text[:600]}') from error
    return network


def build_cut_network(
    network: Mapping[str, Any] | nn.Module, cuts: Sequence[str], image_size: int | Sequence[int], **arguments: Any
) -> CutNetwork:
    """A cut network from a config: see :func:`cut_network`.

    Args:
        network: Config of a network in MMEngine's registry that takes images and returns logits.
        cuts: See :func:`cut_network`.
        image_size: Height and width of the images in pixels, or one number for both.
        arguments: More entries of the network's config.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    built: nn.Module = network if isinstance(network, nn.Module) else MODELS.build({**network, **arguments})
    generator = torch.Generator().manual_seed(0)
    return cut_network(built, torch.randn(2, 3, height, width, generator=generator), cuts)


MODELS.register_module(name='CutNetwork', module=build_cut_network)
MODELS.register_module(name='NetworkFromFunction', module=network_from_function)
