"""Every parameter learns, but for those that something behind them silences; float64 tells a small gradient from rounding noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from core_models import DEPTHS, fill, narrow_model, narrow_shadow, standard_normal
from silent_parameters import assert_all_but_silent_learn, silent_parameters
from torch.nn.functional import cross_entropy

from dynperceiver.feature_branches import FEATURE_BRANCHES

IMAGES = (4, 3, 64, 64)
NETWORKS: tuple[dict[str, Any], ...] = (
    {},
    dict(token_mixers=False),
    dict(fkt=False),
    dict(last_z2x=False),
    dict(last_z2x=False, early_exits='feature'),
    dict(z2x=False),
    dict(early_exits='feature'),
    dict(num_latents=8),
    dict(num_latents=8, z2x=False),
    dict(num_latents=8, token_mixers=False),
)


@pytest.mark.parametrize('name', FEATURE_BRANCHES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    """But for biases that LayerNorms take out again: the last of stages 1 and 2 (that of stage 3 also goes to exit 1), and the mixers'."""
    silent = {f'latent_branch.blocks.{i}.{DEPTHS[i] - 1}.mlp.fc2.bias' for i in (0, 1)}
    silent |= {f'latent_branch.mixers.{i}.{layer}.bias' for i in (0, 1, 2) for layer in (0, 1)}
    model = narrow_model(name)
    assert silent_parameters(model, training=False) == silent
    sum(cross_entropy(logits, torch.arange(4)) for logits in model(standard_normal(IMAGES))).backward()
    assert_all_but_silent_learn(model, silent)


@pytest.mark.parametrize('changes', NETWORKS, ids=str)
@pytest.mark.parametrize(('taught', 'training'), [((1, 2, 3, 4), True), ((1, 2, 3, 4), False), ((3, 4), True), ((4,), False)])
def test_whatever_is_switched_off_and_taught(taught: tuple[int, ...], training: bool, changes: dict[str, Any]) -> None:
    """With a single latent token, with exits that are not in the loss; what belongs to those alone is not looked at."""
    model = narrow_shadow(**{'feature_branch': 'resnet18', **changes}).to_empty(device='cpu').double().train(training)
    model.load_state_dict(fill({name: value.shape for name, value in model.state_dict().items()}))
    logits = model(standard_normal(IMAGES))
    sum(cross_entropy(logits[number - 1], torch.arange(4)) for number in taught).backward()
    untaught = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert all(name.startswith('exits.') for name in untaught)
    for name in untaught:
        parameter = model.get_parameter(name)
        parameter.grad = torch.ones_like(parameter)
    assert_all_but_silent_learn(model, silent_parameters(model, training, taught) - untaught)
