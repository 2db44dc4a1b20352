"""The network over all feature branches and ablation switches, against an independent forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from core_models import DEPTHS, SWITCHES, narrow_model, narrow_shadow, shadow_weights, shared_narrow_model, standard_normal
from core_reference import UsedWeights, reference_forward
from torch import Tensor, nn

from dynperceiver import DynPerceiver
from dynperceiver.checkpoint import convert_to_reference
from dynperceiver.feature_branches import FEATURE_BRANCHES

IMAGES = (2, 3, 96, 64)
CNN = 'cnn_'
ABLATED = ('resnet18', 'mobilenet_v3_large')  # a single Linear and two-layer heads
COMBINATIONS: list[dict[str, bool]] = [
    *({name: False} for name in SWITCHES),
    {'x2z': False, 'dwc': False},
    {'z2x': False, 'last_z2x': False},
    {'fkt': False, 'token_mixers': False},
    dict.fromkeys(SWITCHES, False),
]


def _all_outputs(model: DynPerceiver, images: Tensor) -> dict[str, Tensor]:
    """What :func:`reference_forward` returns, from the network."""
    out: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _module, _args, output, i=i: out.__setitem__(f'z{i}', output))
        for i, module in enumerate(model.latent_branch.blocks, 1)
    ]
    with torch.no_grad():
        out.update({f'x{i}': level for i, level in enumerate(model.pyramid(images), 1)})
        if model.exits is not None:
            out.update({f'exit{k}': logits for k, logits in enumerate(model(images), 1)})
    for handle in handles:
        handle.remove()
    return out


def _check_against_reference(model: DynPerceiver, **switches: bool) -> None:
    weights = UsedWeights(convert_to_reference(model.state_dict()))
    images = standard_normal(IMAGES)
    branch = model.feature_branch
    with torch.no_grad():
        expected = reference_forward(
            weights, branch.stem, list(branch.stages), images, DEPTHS, two_layer_heads=branch.head_channels is not None, **switches
        )
    outputs = _all_outputs(model, images)
    assert set(outputs) == set(expected)
    for name, value in expected.items():
        assert outputs[name].std() > 1e-3, f'{name} says nothing'
        torch.testing.assert_close(outputs[name], value, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f'{name}: {text}')
    own = {key for key in weights if not key.startswith(CNN) and not key.endswith('num_batches_tracked')}
    assert weights.used == own, 'tensors that nothing uses, or that are missing'


@pytest.mark.parametrize('name', FEATURE_BRANCHES)
def test_forward_obeys_the_equations(name: str) -> None:
    _check_against_reference(shared_narrow_model(name))


@pytest.mark.parametrize('name', ABLATED)
@pytest.mark.parametrize('switches', COMBINATIONS, ids=lambda switches: '-'.join(switches))
def test_switched_forward_obeys_the_equations(name: str, switches: dict[str, bool]) -> None:
    _check_against_reference(narrow_model(name, **switches), **switches)


def _names(name: str, **switches: bool) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in convert_to_reference(shadow_weights(name, **switches)).items()}


def _of_layers(names: dict[str, Any], *prefixes: str) -> set[str]:
    found = {key for key in names if key.startswith(prefixes)}
    assert all(any(key.startswith(prefix) for key in found) for prefix in prefixes)
    return found


@pytest.mark.parametrize('name', FEATURE_BRANCHES)
def test_what_each_switch_removes(name: str) -> None:
    full = _names(name)
    names = {switch: _names(name, **{switch: False}) for switch in SWITCHES}
    removed = {switch: set(full) - set(names[switch]) for switch in SWITCHES}
    assert removed['x2z'] == _of_layers(full, *(f'{part}{i}_x2z.' for part in ('dwc', 'cross_att') for i in (2, 3, 4)))
    assert removed['z2x'] == _of_layers(full, *(f'cross_att{i}_z2x.' for i in (2, 3, 4)))
    assert removed['dwc'] == _of_layers(full, *(f'dwc{i}_x2z.' for i in (1, 2, 3, 4)))
    assert removed['fkt'] == _of_layers(full, 'isc3.', 'isc4.')
    assert removed['last_z2x'] == _of_layers(full, 'last_cross_att_z2x.')
    assert removed['token_mixers'] == _of_layers(full, *(f'token_mixer.{i}.' for i in (0, 1, 2)))
    for switch, ablated in names.items():
        assert set(ablated) <= set(full), 'a switch adds no tensor'
        changed = {key for key in ablated if ablated[key] != full[key]}
        norm = {f'classifier_merge.0.{part}' for part in ('weight', 'bias', 'running_mean', 'running_var')}
        assert changed == ({'classifier_att.weight', 'classifier_merge.1.weight', *norm} if switch == 'fkt' else set())


def test_without_fkt_exit_2_is_a_linear_layer_on_the_mean_token() -> None:
    model = narrow_model(fkt=False)
    outputs = _all_outputs(model, standard_normal(IMAGES))
    linear = model.exits[1].classifier
    assert type(linear) is nn.Linear
    torch.testing.assert_close(outputs['exit2'], outputs['z4'].mean(1) @ linear.weight.T + linear.bias)


def test_token_counts_halve_with_mixers_only() -> None:
    images = standard_normal(IMAGES)
    for mixers, counts in ((True, [16, 8, 4, 2]), (False, [16, 16, 16, 16])):
        outputs = _all_outputs(narrow_model(token_mixers=mixers), images)
        assert [outputs[f'z{i}'].shape[1] for i in (1, 2, 3, 4)] == counts


def test_without_last_z2x_exit_4_pools_what_exit_3_pools() -> None:
    model = narrow_model(last_z2x=False)
    seen = {}
    model.exits[3].classifier.register_forward_pre_hook(lambda _module, args: seen.update(merged=args[0]))
    model.exits[2].classifier.register_forward_pre_hook(lambda _module, args: seen.update(feature=args[0]))
    with torch.no_grad():
        model(standard_normal(IMAGES))
    torch.testing.assert_close(seen['merged'][:, : model.feature_branch.channels[4]], seen['feature'])


def test_without_x2z_the_feature_branch_reaches_the_latents_in_stage_1_only() -> None:
    model = narrow_model(x2z=False)
    images = standard_normal(IMAGES)
    before = _all_outputs(model, images)
    nn.init.zeros_(model.feature_branch.stages[0][0].conv1.weight)
    after = _all_outputs(model, images)
    assert not torch.equal(before['x1'], after['x1'])
    for name in ('z1', 'z2', 'z3', 'z4', 'exit1', 'exit2'):
        torch.testing.assert_close(before[name], after[name], msg=name)


@pytest.mark.parametrize('name', FEATURE_BRANCHES)
def test_backbone_without_exits(name: str) -> None:
    model = narrow_model(name, num_classes=None)
    assert model.exits is None
    assert not [key for key in model.state_dict() if key.startswith('exits')]
    with torch.no_grad():
        levels = model.pyramid(standard_normal((1, 3, 64, 96)))
        expected = shared_narrow_model(name).pyramid(standard_normal((1, 3, 64, 96)))
    strides, channels = model.feature_branch.strides[1:], model.feature_branch.channels[1:]
    assert [tuple(level.shape) for level in levels] == [(1, c, 64 // s, 96 // s) for c, s in zip(channels, strides, strict=True)]
    for level, same in zip(levels, expected, strict=True):
        torch.testing.assert_close(level, same)
    with pytest.raises(ValueError, match=r'without exits; call pyramid\(\)'):
        model(standard_normal((1, 3, 64, 96)))


def test_pyramid_takes_images_that_no_stride_divides() -> None:
    model = shared_narrow_model('regnet_y_400mf')
    with torch.no_grad():
        levels = model.pyramid(standard_normal((1, 3, 75, 61)))
    assert [tuple(level.shape[2:]) for level in levels] == [(19, 16), (10, 8), (5, 4), (3, 2)]
    assert all(torch.isfinite(level).all() for level in levels)


def test_initialisation() -> None:
    from dynperceiver import build_model

    model = build_model('resnet18', width=0.25, num_latents=512, depth_factors=(1, 1, 1, 1))
    latent = model.latent_branch.latent.detach()
    assert latent.shape == (512, 16)
    assert latent.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(latent.mean().item()) < 1e-3
    assert [len(blocks) for blocks in model.latent_branch.blocks] == [3, 3, 9, 3]
    assert [blocks[0].attention.num_heads for blocks in model.latent_branch.blocks] == [1, 2, 4, 8]
    for key, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
            assert not module.bias.any(), key
    logits = model.eval()(torch.randn(2, 3, 64, 64))
    assert all(exit_logits.shape == (2, 1000) for exit_logits in logits)


def test_dropout_and_drop_path_act_in_training_only() -> None:
    model = narrow_model('resnet18', dropout=0.5, drop_path=0.5)
    plain = shared_narrow_model('resnet18')
    images = standard_normal((4, 3, 64, 64))
    with torch.no_grad():
        for logits, same in zip(model(images), plain(images), strict=True):
            torch.testing.assert_close(logits, same)
        model.train()
        assert not torch.equal(model(images)[2], model(images)[2])


def test_dropout_of_heads() -> None:
    single, double = narrow_shadow('resnet18', dropout=0.2), narrow_shadow('mobilenet_v3_large', dropout=0.2)
    assert [type(module) for module in double.exits[2].classifier] == [nn.Linear, nn.Hardswish, nn.Dropout, nn.Linear]
    rates = [[module.p for module in model.exits.modules() if isinstance(module, nn.Dropout)] for model in (single, double)]
    assert rates == [[0.2], [0.2, 0.2]], 'the feature head; with two-layer heads the merged exit, too'
