"""Parity with the published reference, on numbers that were computed with it in float64; on a GPU, too, where one is asked for."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from core_models import fill, load_golden, shadow_model, standard_normal
from torch import Tensor

from dynperceiver import DynPerceiver
from dynperceiver.checkpoint import convert_from_reference, convert_to_reference
from dynperceiver.losses import MultiExitLoss

pytestmark = pytest.mark.parity
VARIANTS = ('resnet50_x0375', 'regnet_y_800mf', 'mobilenet_v3_large_x075')
RELATIVE = 1e-8
ROUNDED_LOGITS = 6e-11  # they are stored with ten decimals
ROUNDED_STATISTICS = 6e-13  # and these with twelve


class GoldenRun(NamedTuple):
    golden: dict[str, Any]
    model: DynPerceiver
    names: dict[str, str]  # reference name -> our name
    logits: tuple[Tensor, ...]
    intermediate: dict[str, Tensor]


def _modules(model: DynPerceiver) -> dict[str, torch.nn.Module]:
    """The modules whose outputs are stored, by the reference's names."""
    branch = model.latent_branch
    modules: dict[str, torch.nn.Module] = {'last_cross_att_z2x': branch.last_z2x.cross_attn}
    for i in range(4):
        modules[f'cross_att{i + 1}_x2z'] = branch.x2z[i].cross_attn
        modules[f'self_att{i + 1}'] = branch.blocks[i]
    for i in range(3):
        modules[f'cross_att{i + 2}_z2x'] = branch.z2x[i].cross_attn
    return modules


RUNS = [*((name, 'cpu') for name in VARIANTS), *(pytest.param((name, 'cuda'), marks=pytest.mark.gpu) for name in VARIANTS)]


@pytest.fixture(scope='module', params=RUNS, ids='-'.join)
def run(request: pytest.FixtureRequest) -> GoldenRun:
    name, device = request.param
    golden = load_golden(name)
    model = shadow_model(**golden['variant'])
    reference = fill(golden['shapes'])
    weights = convert_from_reference({'model': reference})
    model.load_state_dict(weights, assign=True)
    model.to(device)
    kept: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _module, _args, output, name=name: kept.__setitem__(name, output.cpu()))
        for name, module in _modules(model).items()
    ]
    with torch.no_grad():
        logits = tuple(exit_SK.cpu() for exit_SK in model.eval()(standard_normal((2, 3, 224, 224)).to(device)))
    for handle in handles:
        handle.remove()
    return GoldenRun(golden, model, dict(zip(reference, weights, strict=True)), logits, kept)


def test_parameters_are_those_of_the_reference(run: GoldenRun) -> None:
    assert sum(parameter.numel() for parameter in run.model.parameters()) == run.golden['num_params']
    ours = convert_to_reference(run.model.state_dict())
    assert {key: list(value.shape) for key, value in ours.items()} == run.golden['shapes']


def test_logits(run: GoldenRun) -> None:
    assert len(run.logits) == len(run.golden['exits']) == 4
    for logits, expected in zip(run.logits, run.golden['exits'], strict=True):
        assert list(logits.shape) == expected['shape']
        assert logits.norm().item() == pytest.approx(expected['norm'], rel=RELATIVE)
        torch.testing.assert_close(logits[:, :8], logits.new_tensor(expected['first8']), rtol=0, atol=ROUNDED_LOGITS)
        assert logits.argmax(1).tolist() == expected['argmax']
        assert logits.softmax(1).amax(1).tolist() == pytest.approx(expected['max_softmax'], rel=RELATIVE)


def test_intermediate_statistics(run: GoldenRun) -> None:
    assert len(run.golden['intermediate']) == 12
    for name, expected in run.golden['intermediate'].items():
        output = run.intermediate[name]
        assert output.numel() == expected['numel'], name
        assert output.mean().item() == pytest.approx(expected['mean'], rel=RELATIVE), name
        assert output.std(unbiased=False).item() == pytest.approx(expected['std'], rel=RELATIVE), name
        first = output.reshape(-1)[:6]
        torch.testing.assert_close(first, first.new_tensor(expected['first']), rtol=0, atol=ROUNDED_STATISTICS, msg=name)


def test_training_loss_and_gradients(run: GoldenRun) -> None:
    expected = run.golden['train']
    loss = MultiExitLoss(exit_weights=(0.5, 0.5, 1.0, 1.0), distill_weight=0.5, temperature=1.0, form='sum')
    device = next(run.model.parameters()).device
    logits = run.model.train()(standard_normal((2, 3, 224, 224)).to(device))
    terms = loss(logits, torch.tensor(expected['targets'], device=device))
    entropies = [terms[f'loss_exit{k}'].item() / weight for k, weight in enumerate(loss.exit_weights, 1)]
    assert entropies == pytest.approx(expected['ce'], rel=RELATIVE)
    assert terms['loss_distill'].item() / 0.5 == pytest.approx(expected['kd'], rel=RELATIVE)
    total = sum(terms.values(), torch.zeros((), device=device))
    assert total.item() == pytest.approx(expected['loss'], rel=RELATIVE)
    total.backward()
    gradients = {name: parameter.grad for name, parameter in run.model.named_parameters()}
    assert len(expected['grad_norm']) == 5
    for name, norm in expected['grad_norm'].items():
        assert gradients[run.names[name]].norm().item() == pytest.approx(norm, rel=RELATIVE), name
    squares = sum(gradient.square().sum().item() for gradient in gradients.values())
    assert squares**0.5 == pytest.approx(expected['total_grad_norm'], rel=RELATIVE)
