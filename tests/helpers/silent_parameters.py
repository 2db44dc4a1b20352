"""Parameters whose gradient is zero in exact arithmetic, because something behind them takes out again what they do.

Computed gradients of these are rounding noise or zero, as the machine's instructions and the shapes happen to round: no test may rely on
either. All others have a gradient, which float64 tells from noise without doubt: the smallest are 1e-9 of the whole, noise is 1e-16.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from dynperceiver import DynPerceiver
from dynperceiver.layers import LatentToFeature, TokenMixer
from dynperceiver.models.exits import LatentExit

__all__ = ['assert_all_but_silent_learn', 'silent_parameters']

NOISE = 1e-13  # of the norm of all gradients


def silent_parameters(model: nn.Module, training: bool = True, taught: Collection[int] = (1, 2, 3, 4)) -> set[str]:
    """Names of the parameters of a Dyn-Perceiver, or of those within a model, that no loss can teach.

    - LayerNorm over channels removes what is added to all channels alike, which is what biases of the token mixers before it do.
    - LayerNorm over tokens removes what is added to all tokens alike: the last bias of the self-attention before a token mixer, unless an
      exit reads the tokens before they are mixed.
    - A softmax over one key is 1 whatever query and key are: attention over a single token teaches the values alone.
    - BatchNorm in training removes what is added to all samples alike, so that the last bias before it is silent. It stands in the
      knowledge transfer, behind the logits of exits 1 and 2, and in exit 4, behind the means of the last map and of the last tokens.

    Args:
        model: Any; without a :class:`DynPerceiver` there are none.
        training: Whether BatchNorm takes its statistics from the batch.
        taught: Numbers of the exits in the loss.
    """
    networks = {f'{name}.' if name else '': module for name, module in model.named_modules() if isinstance(module, DynPerceiver)}
    return {prefix + name for prefix, network in networks.items() for name in _silent_in(network, training, taught)}


def _silent_in(network: DynPerceiver, training: bool, taught: Collection[int]) -> set[str]:
    branch, exits = network.latent_branch, network.exits
    mixed = [isinstance(mixer, TokenMixer) for mixer in branch.mixers]
    last_biases = [f'latent_branch.blocks.{i}.{len(branch.blocks[i]) - 1}.mlp.fc2.bias' for i in range(branch.num_stages)]
    silent = {f'latent_branch.mixers.{i}.{layer}.bias' for i in range(3) if mixed[i] for layer in (0, 1)}
    silent |= {last_biases[i] for i in range(3) if mixed[i] and not (i == 2 and _is_read(exits, training, taught))}
    num_tokens = [branch.latent.shape[0] // 2 ** sum(mixed[:i]) for i in range(4)]
    for i in range(branch.num_stages):
        if num_tokens[i] == 1:
            silent |= {f'latent_branch.blocks.{i}.{j}.attention.{part}_proj.weight' for j in range(len(branch.blocks[i])) for part in 'qk'}
    writers = {'z2x.0': 1, 'z2x.1': 2, 'z2x.2': 3, 'last_z2x': 3}
    for name in (name for name, stage in writers.items() if num_tokens[stage] == 1):
        if isinstance(branch.get_submodule(name), LatentToFeature):
            silent |= {f'latent_branch.{name}.cross_attn.q_norm.{part}' for part in ('weight', 'bias')}
            silent |= {f'latent_branch.{name}.cross_attn.attention.{part}_proj.weight' for part in 'qk'}
    return silent | (_before_batch_norm(network, taught, last_biases[3]) if training and exits is not None else set())


def _is_read(exits: nn.ModuleList | None, training: bool, taught: Collection[int]) -> bool:
    """Whether exit 1 reads the tokens of stage 3 and is taught, or hands its logits on to exits that are."""
    if exits is None or not isinstance(exits[0], LatentExit):
        return False
    return 1 in taught or (not training and exits[1].fkt is not None and bool({2, 4} & set(taught)))


def _before_batch_norm(network: DynPerceiver, taught: Collection[int], last_bias: str) -> set[str]:
    exits, writes_last = network.exits, isinstance(network.latent_branch.last_z2x, LatentToFeature)
    assert exits is not None
    silent = {f'exits.{i}.fkt.0.bias' for i in (1, 3) if exits[i].fkt is not None}
    silent |= {f'exits.{i}.{exits[i].classifier_name}.bias' for i in (0, 1) if i + 1 not in taught}
    if writes_last:
        silent.add('latent_branch.last_z2x.cross_attn.mlp.fc2.bias')
    elif 2 not in taught or not isinstance(exits[1], LatentExit):
        silent.add(last_bias)
    return silent


def assert_all_but_silent_learn(network: nn.Module, silent: set[str]) -> None:
    """After a backward pass in float64, every parameter has a finite gradient, which is zero but for noise in the silent ones alone."""
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert not [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()]
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float64}
    sizes = {name: gradient.norm().item() for name, gradient in gradients.items()}
    total = sum(size**2 for size in sizes.values()) ** 0.5
    assert {name for name, size in sizes.items() if size < NOISE * total} == silent
