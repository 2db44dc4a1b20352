"""Every ablation of the paper as a leaf: what it takes out of the network, what it does to the loss, and that it trains."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from silent_parameters import silent_parameters
from tiny_classification import IMAGENET_LEAVES, LEAVES, PUBLISHED, exit_gmacs, load_leaf, random_batch, shadow_of, tiny_model
from torch import Tensor

BASE = PUBLISHED[0]
NAMES = {
    leaf: leaf.removeprefix('dynperceiver-regnety-800mf_').removesuffix('_8xb128_in1k')
    for leaf in IMAGENET_LEAVES
    if leaf.startswith('dynperceiver-regnety-800mf_') and leaf != BASE
}
ABLATIONS = {name: leaf for leaf, name in NAMES.items()}
SMALL_BASE = 'dynperceiver-r18x0.25_cifar10'
TABLE_2 = ('feature-exits', 'no-early-exit')
OTHERS = [f'dynperceiver-r18x0.25_{name}_cifar10' for name in TABLE_2]
STATIC = [leaf for leaf in LEAVES if not leaf.startswith('dynperceiver')]
TRAINED = [BASE, *ABLATIONS.values(), SMALL_BASE, *OTHERS, *STATIC]

# What a leaf takes out of the base's full-size network, and how many parameters that is. Counted by hand from the layers' sizes where a
# formula is given: 7x7 kernels and biases of the depthwise convolutions, and Linear + BatchNorm of the knowledge transfer with the
# columns of the classifiers that read it.
CHANNELS = (32, 64, 144, 320, 784)  # of x_0 .. x_4
REMOVED: dict[str, tuple[str, int | None]] = {
    'no-x2z': (r'latent_branch\.x2z\.[123]\.', None),
    'no-z2x': (r'latent_branch\.z2x\.[012]\.', None),
    'no-dwc': (r'latent_branch\.x2z\.[0123]\.dwc\.', sum(50 * channels for channels in CHANNELS[:4])),
    'no-fkt': (r'exits\.[13]\.fkt\.', None),
    'no-last-z2x': (r'latent_branch\.last_z2x\.', None),
    'no-token-mixers': (r'latent_branch\.mixers\.[012]\.', sum(2 * n + n * n // 2 + n // 2 for n in (128, 64, 32))),
    'no-self-distillation': ('', 0),
    'mixed-loss': ('', 0),
    'feature-exits': (r'exits\.[01]\.classifier\.', 0),
    'no-early-exit': (r'exits\.[13]\.fkt\.', None),
}
FKT_PARAMS = 2 * (1000 * 320 + 320 + 2 * 320) + 320 * 1000 + (2 * 320 + 320 * 1000)

each_ablation = pytest.mark.parametrize('name', ABLATIONS)
each_trained = pytest.mark.parametrize('leaf', TRAINED)


def _shapes(leaf: str) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in shadow_of(leaf).backbone.state_dict().items()}


def _count(leaf: str) -> int:
    return sum(parameter.numel() for parameter in shadow_of(leaf).parameters())


def test_every_ablation_of_the_paper_has_its_leaf() -> None:
    assert set(ABLATIONS) == set(REMOVED)
    switches = {name: load_leaf(leaf).model for name, leaf in ABLATIONS.items()}
    assert not switches['no-x2z'].backbone.x2z and not switches['no-last-z2x'].backbone.last_z2x


@each_ablation
def test_a_leaf_changes_its_switch_alone(name: str) -> None:
    cfg, base = load_leaf(ABLATIONS[name]), load_leaf(BASE)
    for key in set(cfg) | set(base):
        assert key == 'model' or cfg[key] == base[key], key
    changed: dict[str, Any] = {}
    for part in set(base.model) | set(cfg.model):
        before, after = base.model[part], cfg.model[part]
        if before != after:
            changed |= {f'{part}.{key}': value for key, value in after.items() if before.get(key) != value}
    switch = name.removeprefix('no-').replace('-', '_')
    expected = {
        'no-self-distillation': {'loss.distill_weight': 0},
        'mixed-loss': {'loss.form': 'mixed'},
        'feature-exits': {'backbone.early_exits': 'feature'},
        'no-early-exit': {'backbone.fkt': False, 'loss.exit_weights': (0, 0, 0, 1), 'loss.distill_weight': 0},
    }.get(name, {f'backbone.{switch}': False})
    assert changed == expected


@each_ablation
def test_what_a_leaf_takes_out_of_the_full_size_network(name: str) -> None:
    leaf, (pattern, num_params) = ABLATIONS[name], REMOVED[name]
    base, own = _shapes(BASE), _shapes(leaf)
    gone, new = set(base) - set(own), set(own) - set(base)
    assert gone == {key for key in base if pattern and re.match(pattern, key)}
    assert bool(gone) == bool(pattern)
    assert new == ({key.replace('classifier', 'feature_classifier') for key in gone} if name == 'feature-exits' else set())
    changed = {key for key in set(base) & set(own) if base[key] != own[key]}
    if name in ('no-fkt', 'no-early-exit'):
        norm = {f'exits.3.classifier.0.{part}' for part in ('weight', 'bias', 'running_mean', 'running_var')}
        assert changed == {'exits.1.classifier.weight', 'exits.3.classifier.1.weight', *norm}
        num_params = FKT_PARAMS
    else:
        assert not changed
    removed = sum(shadow_of(BASE).backbone.get_parameter(key).numel() for key in gone if not re.search(r'running|num_batches', key))
    difference = _count(BASE) - _count(leaf)
    assert difference == (removed if num_params is None else num_params)
    assert (difference > 0) == (name not in ('no-self-distillation', 'mixed-loss', 'feature-exits'))


def test_what_the_ablations_cost() -> None:
    """Exits 1 to 4 against the base: cheaper, dearer or the same."""
    base = exit_gmacs(BASE)
    for name, leaf in ABLATIONS.items():
        pairs = zip(exit_gmacs(leaf), base, strict=True)
        signs = ''.join('=' if abs(own - whole) < 1e-9 else '<' if own < whole else '>' for own, whole in pairs)
        expected = {
            'no-fkt': '=<<<',
            'no-early-exit': '=<<<',
            'no-last-z2x': '===<',
            'no-token-mixers': '>>>>',
            'no-self-distillation': '====',
            'mixed-loss': '====',
            'feature-exits': '====',
        }
        assert signs == expected.get(name, '<<<<'), name


@pytest.mark.parametrize('name', TABLE_2)
def test_the_small_leaves_of_table_2_switch_the_same(name: str) -> None:
    small, small_base = load_leaf(f'dynperceiver-r18x0.25_{name}_cifar10').model, load_leaf(SMALL_BASE).model
    large, large_base = load_leaf(ABLATIONS[name]).model, load_leaf(BASE).model
    for part in ('backbone', 'loss'):
        changes = [
            {key: value for key, value in cfg[part].items() if base[part].get(key) != value}
            for cfg, base in ((small, small_base), (large, large_base))
        ]
        assert changes[0] == changes[1]


@each_trained
def test_three_steps_of_training(leaf: str) -> None:
    """On a narrow ResNet-18, with the leaf's switches, loss, augmentation and optimizer."""
    torch.manual_seed(0)
    model = tiny_model(leaf).train()
    cfg = load_leaf(leaf)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    learning = {name: value for name, value in model.named_parameters() if value.requires_grad}
    before = {name: value.clone() for name, value in learning.items()}
    largest: dict[str, float] = dict.fromkeys(before, 0.0)

    def look(*_: Any) -> None:
        for name, parameter in learning.items():
            assert parameter.grad is not None, f'{name} is not in the loss, which distributed training would stop at'
            largest[name] = max(largest[name], parameter.grad.abs().max().item())

    wrapper.optimizer.register_step_pre_hook(look)
    for step in range(3):
        log = model.train_step(random_batch(seed=step), wrapper)
        assert all(value.isfinite() for value in log.values()), log
    loss = cfg.model.loss
    weights = loss.get('exit_weights', (0.5, 0.5, 1, 1))
    terms = [f'loss_exit{number}' for number in range(1, len(weights) + 1)]
    terms += ['loss_distill'] if len(weights) > 1 and loss.get('distill_weight', 0.5) else []
    assert [name for name in log if name.startswith('loss_')] == terms
    assert [log[f'loss_exit{number}'].item() > 0 for number in range(1, len(weights) + 1)] == [weight > 0 for weight in weights]
    untaught = {f'backbone.exits.{number}.' for number, weight in enumerate(weights) if not weight}
    taught = [number for number, weight in enumerate(weights, 1) if weight]
    silent = silent_parameters(model, taught=taught)
    for name, parameter in learning.items():
        learns = not name.startswith(tuple(untaught))
        assert learns or largest[name] == 0, name
        assert not learns or name in silent or (largest[name] > 0 and not torch.equal(parameter, before[name])), name
    assert bool(untaught) == ('no-early-exit' in leaf)


def _terms(leaf: str, logits: list[Tensor], labels: Tensor) -> dict[str, float]:
    found = shadow_of(leaf).loss_module(logits, labels)
    return {name: value.item() for name, value in found.items()}


def test_losses_of_the_ablations() -> None:
    """One image, two classes: ln 2 for a draw, -ln 0.75 for three to one; KL(1/2, 1/2 || 3/4, 1/4) = ln 2 - ln 3 / 2."""
    draw, sure = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
    logits, labels = [sure, draw, draw, draw], torch.tensor([0])
    ln2, ln3 = (torch.tensor(value).log().item() for value in (2.0, 3.0))
    expected = {
        BASE: [0.5 * (2 * ln2 - ln3), 0.5 * ln2, ln2, ln2, 0.5 * (ln2 - ln3 / 2)],
        ABLATIONS['mixed-loss']: [0.25 * (2 * ln2 - ln3), 0.25 * ln2, 0.5 * ln2, ln2, 0.5 * 0.5 * (ln2 - ln3 / 2)],
        ABLATIONS['no-self-distillation']: [0.5 * (2 * ln2 - ln3), 0.5 * ln2, ln2, ln2],
        ABLATIONS['no-early-exit']: [0, 0, 0, ln2],
    }
    expected[ABLATIONS['feature-exits']] = expected[BASE]
    expected[ABLATIONS['no-fkt']] = expected[BASE]
    wanted = ['loss_exit1', 'loss_exit2', 'loss_exit3', 'loss_exit4', 'loss_distill']
    for leaf, values in expected.items():
        found = _terms(leaf, logits, labels)
        assert found == pytest.approx(dict(zip(wanted, values, strict=False)), abs=1e-6), leaf
