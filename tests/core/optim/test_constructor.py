"""Few groups of parameters with the numbers that MMEngine's default constructor gives them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from core_models import narrow_model
from mmengine.logging import MMLogger, print_log
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import Tensor, nn

from dynperceiver.optim import GroupedOptimWrapperConstructor
from dynperceiver.optim.constructor import merge_param_groups

NO_DECAY = dict(norm_decay_mult=0, bias_decay_mult=0, flat_decay_mult=0)
PARAMWISE: dict[str, dict[str, Any]] = {
    'no decay': NO_DECAY,
    'two rates': dict(custom_keys={'exits': dict(lr_mult=5)}),
    'both': dict(NO_DECAY, custom_keys={'exits': dict(lr_mult=5), 'latent_branch.latent': dict(lr_mult=0.1, decay_mult=0)}),
}
each_setting = pytest.mark.parametrize('name', PARAMWISE)


def _wrapper(model: nn.Module, paramwise: dict[str, Any] | None, grouped: bool) -> OptimWrapper:
    settings = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.05), paramwise_cfg=paramwise)
    if grouped:
        settings['constructor'] = 'dynperceiver.GroupedOptimWrapperConstructor'
    return build_optim_wrapper(model, settings)


def _settings(wrapper: OptimWrapper, model: nn.Module) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every parameter, by its name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [(names[id(one)], (group['lr'], group['weight_decay'])) for group in wrapper.optimizer.param_groups for one in group['params']]
    assert len(found) == len(dict(found)), 'a parameter stands in two groups'
    return dict(found)


@each_setting
def test_each_parameter_has_the_numbers_that_mmengine_gives_it(name: str) -> None:
    model = narrow_model()
    default, grouped = (_wrapper(model, PARAMWISE[name], grouped) for grouped in (False, True))
    expected = _settings(default, model)
    assert set(expected) == {key for key, _ in model.named_parameters()}
    assert _settings(grouped, model) == expected
    assert len(grouped.optimizer.param_groups) == len(set(expected.values())) < len(default.optimizer.param_groups)


def test_the_imagenet_recipe_makes_two_groups() -> None:
    wrapper = _wrapper(narrow_model(), NO_DECAY, grouped=True)
    assert {group['weight_decay'] for group in wrapper.optimizer.param_groups} == {0.0, 0.05}
    assert len(wrapper.optimizer.param_groups) == 2


def test_without_paramwise_cfg_there_is_one_group() -> None:
    model = narrow_model()
    assert len(_wrapper(model, None, grouped=True).optimizer.param_groups) == 1


@each_setting
def test_weights_are_the_same_after_steps(name: str) -> None:
    def trained(grouped: bool) -> dict[str, Tensor]:
        model = narrow_model(dtype=torch.float32)
        wrapper = _wrapper(model, PARAMWISE[name], grouped)
        for step in range(3):
            generator = torch.Generator().manual_seed(step)
            images = torch.randn(2, 3, 32, 32, generator=generator)
            wrapper.update_params(sum(logits.square().mean() for logits in model(images)))
        return model.state_dict()

    before, default, grouped = narrow_model(dtype=torch.float32).state_dict(), trained(grouped=False), trained(grouped=True)
    assert not torch.equal(default['latent_branch.latent'], before['latent_branch.latent'])
    for key, value in grouped.items():
        torch.testing.assert_close(value, default[key], rtol=1e-5, atol=1e-7, msg=key)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the current logger writes."""
    written: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: written.append(record.getMessage())  # type: ignore[method-assign]
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    logger._cache.clear()
    yield written
    logger.removeHandler(handler)


@pytest.mark.parametrize('used_before', [True, False])
def test_the_log_has_a_line_per_group_and_goes_on(used_before: bool, lines: list[str]) -> None:
    if used_before:
        print_log('before', logger='current')
    model = narrow_model()
    wrapper = _wrapper(model, NO_DECAY, grouped=True)
    print_log('after', logger='current')
    assert len(lines) == 3 + used_before and lines[-1] == 'after'
    for line, group in zip(lines[-3:-1], wrapper.optimizer.param_groups, strict=True):
        tensors = group['params']
        settings = 'as the optimizer says' if group['weight_decay'] else 'weight_decay=0.0'
        assert line == f'parameter group: {settings}: {len(tensors)} tensors, {sum(one.numel() for one in tensors)} numbers'
    _wrapper(model, NO_DECAY, grouped=False)
    assert len(lines) > 100, "MMEngine's own constructor still writes a line per parameter"


def test_frozen_parameters_are_as_in_the_default_constructor() -> None:
    model = narrow_model()
    model.feature_branch.stem.requires_grad_(False)
    expected = _settings(_wrapper(model, NO_DECAY, grouped=False), model)
    assert _settings(_wrapper(model, NO_DECAY, grouped=True), model) == expected


def test_groups_keep_the_order_of_their_first_parameters() -> None:
    a, b, c, d = (nn.Parameter(torch.zeros(1)) for _ in range(4))
    groups = [
        dict(params=[a], lr=1.0, betas=[0.9, 0.99]),
        dict(params=[b], lr=2.0, betas=[0.9, 0.99]),
        dict(params=[c, d], betas=[0.9, 0.99], lr=1.0),
        dict(params=[d], lr=1.0, betas=[0.9, 0.9]),
    ]
    merged = merge_param_groups(groups)
    assert [[id(one) for one in group['params']] for group in merged] == [[id(a), id(c), id(d)], [id(b)], [id(d)]]
    assert [group['lr'] for group in merged] == [1.0, 2.0, 1.0]
    assert [len(group['params']) for group in groups] == [1, 1, 2, 1], 'what came in is left as it was'


def test_it_is_found_by_name() -> None:
    from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS

    assert OPTIM_WRAPPER_CONSTRUCTORS.get('dynperceiver.GroupedOptimWrapperConstructor') is GroupedOptimWrapperConstructor
