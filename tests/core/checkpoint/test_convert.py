"""The authors' names and ours: exact inverses, and nothing goes unnoticed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from core_models import SWITCHES, load_golden, shadow_weights
from torch import Tensor

from dynperceiver.checkpoint import convert_from_reference, convert_to_reference, is_reference_state_dict, unwrap_checkpoint
from dynperceiver.feature_branches import FEATURE_BRANCHES

SETTINGS: list[dict[str, Any]] = [*({switch: False} for switch in SWITCHES), dict.fromkeys(SWITCHES, False), {'num_classes': None}]


def _weights(name: str = 'resnet18', **changes: Any) -> dict[str, Tensor]:
    return shadow_weights(name, **changes)


@pytest.mark.parametrize('name', FEATURE_BRANCHES)
def test_names_of_every_branch_there_and_back_again(name: str) -> None:
    _there_and_back_again(_weights(name))


@pytest.mark.parametrize('name', ['resnet18', 'regnet_y_400mf', 'mobilenet_v3_large'])
@pytest.mark.parametrize('changes', SETTINGS, ids='-'.join)
def test_there_and_back_again(name: str, changes: dict[str, Any]) -> None:
    _there_and_back_again(_weights(name, **changes))


def _there_and_back_again(ours: dict[str, Tensor]) -> None:
    reference = convert_to_reference(ours)
    assert len(reference) == len(ours)
    assert not set(reference) & set(ours)
    back = convert_from_reference(reference)
    assert list(back) == list(ours), 'the same names in the same order'
    assert all(back[key] is ours[key] for key in ours), 'the same tensors'
    assert convert_to_reference(back).keys() == reference.keys()
    assert is_reference_state_dict(reference)
    assert not is_reference_state_dict(ours)


@pytest.mark.parametrize('golden', ['resnet50_x0375', 'regnet_y_800mf', 'mobilenet_v3_large_x075'])
def test_published_names(golden: str) -> None:
    reference = {key: torch.empty(shape, device='meta') for key, shape in load_golden(golden)['shapes'].items()}
    ours = convert_from_reference(reference)
    assert list(convert_to_reference(ours)) == list(reference)
    assert {key.split('.')[0] for key in ours} == {'feature_branch', 'latent_branch', 'exits'}


def test_wrappers_of_checkpoints() -> None:
    reference = convert_to_reference(_weights())
    ema = {key: value.clone() for key, value in reference.items()}
    plain = convert_from_reference(reference)
    distributed = {f'module.{key}': value for key, value in reference.items()}
    for checkpoint in (
        {'model': reference, 'epoch': 3},
        {'model_ema': reference, 'optimizer': {'state': {}}},
        {'model': distributed},
        distributed,
        {'state_dict': reference, 'meta': {}},
        {'model': reference, 'model_ema': None},
    ):
        converted = convert_from_reference(checkpoint)
        assert list(converted) == list(plain)
        assert all(converted[key] is plain[key] for key in plain)
    both = {'model': reference, 'model_ema': ema}
    assert convert_from_reference(both)['latent_branch.latent'] is ema['latent'], 'the averaged weights'
    assert convert_from_reference(both, weights='model')['latent_branch.latent'] is reference['latent']
    with pytest.raises(ValueError, match=r"no weights named 'ema'; it holds: model, model_ema"):
        convert_from_reference(both, weights='ema')


def test_every_unknown_key_is_named() -> None:
    reference = convert_to_reference(_weights())
    strange = ('cls_token', 'head.fc.weight', 'cross_att1_z2x.mlp.fc1.bias', 'dwc0_x2z.weight', 'latent.more', 'self_att2.x.mlp.fc1.bias')
    with pytest.raises(ValueError, match=f'{len(strange)} of {len(reference) + len(strange)} keys are not among the authors') as caught:
        convert_from_reference({**reference, **{key: torch.zeros(1) for key in strange}})
    assert all(key in str(caught.value) for key in strange)
    assert 'strip their prefix' in str(caught.value)
    with pytest.raises(ValueError, match=r'1 of .* keys are not among our names: head\.weight'):
        convert_to_reference({**_weights(), 'head.weight': torch.zeros(1)})


def test_the_other_sides_names_do_not_pass() -> None:
    ours = _weights()
    with pytest.raises(ValueError, match=r'all keys are ours already, from feature_branch\.stem.* there is nothing to convert'):
        convert_from_reference(ours)
    with pytest.raises(ValueError, match=r"all keys are the authors' already, from cnn_stem"):
        convert_to_reference(convert_to_reference(ours))


def test_nothing_to_convert() -> None:
    with pytest.raises(ValueError, match='no weights were found among epoch, lr; pass a state dict'):
        convert_from_reference({'epoch': 1, 'lr': 0.1})
    with pytest.raises(ValueError, match=r'nothing \(it is empty\)'):
        convert_from_reference({})


def test_unwrap_takes_the_averaged_weights_first() -> None:
    one, two, three = ({'x': torch.tensor(float(n))} for n in (1, 2, 3))
    assert unwrap_checkpoint({'state_dict': three, 'model': two, 'model_ema': one})['x'] == 1
    assert unwrap_checkpoint({'state_dict': three, 'model': two})['x'] == 2
    assert unwrap_checkpoint({'state_dict': three, 'message_hub': {}})['x'] == 3
