"""Networks without exits: nothing that no map depends on, and the same maps as the whole network."""

from __future__ import annotations

import itertools
from functools import cache
from math import ceil
from typing import Any

import pytest
import torch
from core_models import narrow_model, narrow_shadow, shared_narrow_model, standard_normal
from mmengine.logging import MMLogger
from silent_parameters import assert_all_but_silent_learn, silent_parameters
from torch import Tensor

from dynperceiver import DynPerceiver, build_feature_branch, build_model
from dynperceiver.analysis import count_exit_costs
from dynperceiver.checkpoint import convert_to_reference, load_image_checkpoint
from dynperceiver.feature_branches import FEATURE_BRANCHES, pyramid_levels

STAGES = (1, 2, 3, 4)
SWITCHED: list[dict[str, bool]] = [
    {},
    *({name: False} for name in ('x2z', 'z2x', 'dwc', 'last_z2x', 'token_mixers')),
    {'x2z': False, 'dwc': False, 'token_mixers': False},
    {'x2z': False, 'z2x': False},
    {'last_z2x': False, 'token_mixers': False},
]
WRITING = [
    (switches, num_stages)
    for switches, num_stages in itertools.product(SWITCHED, STAGES)
    if switches.get('z2x', True) or (num_stages == 4 and switches.get('last_z2x', True))
]
IMAGES = (2, 3, 48, 64)


def _id(value: Any) -> str:
    return ('-'.join(value) or 'all') if isinstance(value, dict) else str(value)


def _empty(feature_branch: str = 'resnet18', **changes: Any) -> DynPerceiver:
    """A narrow backbone, in eval mode, whose weights are what happens to be in memory: quick, even for the widest CNN."""
    return narrow_shadow(feature_branch, num_classes=None, **changes).to_empty(device='cpu').eval()


@cache
@torch.no_grad()
def _whole(**switches: bool) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
    """Weights and maps x_0 .. x_4 of a network with exits."""
    model = narrow_model('resnet18', **switches)
    return model.state_dict(), model.pyramid(standard_normal(IMAGES), (0, *STAGES))


def _without_gradient(feature_branch: str, num_stages: int, **switches: bool) -> list[str]:
    """Parameters that no map of a backbone depends on."""
    model = _empty(feature_branch, num_stages=num_stages, depth_factors=(1 / 3, 1 / 3, 1 / 9, 1 / 3), **switches)
    maps = model.pyramid(torch.zeros(1, 3, 32, 32), tuple(range(1, num_stages + 1)))
    assert len(maps) == num_stages
    sum(feature.sum() for feature in maps).backward()
    return [key for key, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize(
    ('name', 'num_stages'), [*((name, 4) for name in FEATURE_BRANCHES), *itertools.product(('resnet18', 'mobilenet_v3_large'), STAGES[:3])]
)
def test_every_map_depends_on_everything_that_is_built(name: str, num_stages: int) -> None:
    assert _without_gradient(name, num_stages) == []


@pytest.mark.parametrize(('switches', 'num_stages'), WRITING[4:], ids=_id)
def test_every_map_depends_on_everything_that_is_built_with_switches(switches: dict[str, bool], num_stages: int) -> None:
    assert _without_gradient('resnet18', num_stages, **switches) == []


@pytest.mark.parametrize(
    ('name', 'num_stages', 'last_z2x'), [('resnet18', 4, True), ('resnet18', 4, False), ('mobilenet_v3_large', 2, True)]
)
def test_the_gradients_are_numbers(name: str, num_stages: int, last_z2x: bool) -> None:
    model = narrow_model(name, num_classes=None, num_stages=num_stages, last_z2x=last_z2x)
    maps = model.pyramid(standard_normal(IMAGES), tuple(range(1, num_stages + 1)))
    sum((feature * standard_normal(feature.shape, seed=i)).sum() for i, feature in enumerate(maps)).backward()
    assert_all_but_silent_learn(model, silent_parameters(model))


def test_only_the_maps_that_are_asked_for_matter() -> None:
    """The last map alone depends on all earlier ones."""
    model = _empty(num_stages=3)
    model.pyramid(torch.zeros(1, 3, 32, 32), (3,))[0].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def _lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'log', lambda _level, message, *_args, **_kwargs: lines.append(message))
    return lines


@pytest.mark.parametrize(('switches', 'num_stages'), WRITING, ids=_id)
def test_maps_are_those_of_the_whole_network(switches: dict[str, bool], num_stages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _lines(monkeypatch)
    weights, expected = _whole(**switches)
    backbone = _empty(num_stages=num_stages, **switches).double()
    skipped = load_image_checkpoint(backbone, weights, 'image.pth')
    assert set(skipped) == set(weights) - set(backbone.state_dict())
    assert f'image.pth: {len(skipped)} tensors left out, since the model has no exits, and its maps do not depend on them' in lines[0]
    assert lines[0].partition('on them: ')[2].split(', ') == skipped
    assert lines[1] == f'image.pth: {len(backbone.state_dict())} tensors loaded'
    levels = tuple(range(num_stages + 1))
    with torch.no_grad():
        maps = backbone.pyramid(standard_normal(IMAGES), levels)
    assert len(maps) == num_stages + 1
    for level, (given, same) in enumerate(zip(maps, expected, strict=False)):
        assert given.std() > 1e-3
        assert torch.equal(given, same), f'x{level}'


@pytest.mark.parametrize('name', ['regnet_y_400mf', 'mobilenet_v3_large'])
def test_maps_are_those_of_the_whole_network_on_other_branches(name: str) -> None:
    whole, backbone = shared_narrow_model(name), _empty(name, num_stages=3).double()
    load_image_checkpoint(backbone, whole.state_dict())
    with torch.no_grad():
        for given, same in zip(backbone.pyramid(standard_normal(IMAGES), STAGES[:3]), whole.pyramid(standard_normal(IMAGES)), strict=False):
            assert torch.equal(given, same)


def test_what_is_left_out_by_name() -> None:
    def parts(**settings: Any) -> set[str]:
        model = narrow_shadow('resnet18', num_classes=None, **settings)
        left_out = set(narrow_shadow('resnet18').state_dict()) - set(model.state_dict())
        names = (convert_to_reference(narrow_shadow('resnet18').state_dict()), convert_to_reference(model.state_dict()))
        assert len(names[0]) - len(names[1]) == len(left_out), 'the authors have names for what is left, too'
        return {'.'.join(key.split('.')[: 2 if 'last' in key else 1 if key.startswith('exits') else 3]) for key in left_out}

    of_latents = {f'latent_branch.{part}' for part in ('x2z.3', 'blocks.3')}
    of_stage_3 = {f'latent_branch.{part}.2' for part in ('x2z', 'blocks', 'mixers', 'expanders', 'z2x')}
    assert parts() == {'exits'}
    three = {'exits', 'feature_branch.stages.3', 'latent_branch.last_z2x', *of_latents}
    assert parts(num_stages=3) == three
    assert parts(num_stages=2) == three | of_stage_3 | {'feature_branch.stages.2'}


def test_a_backbone_starts_from_a_backbone_with_more_stages_and_not_the_other_way_round() -> None:
    small, large = _empty(num_stages=2), _empty(num_stages=3)
    assert set(load_image_checkpoint(small, large.state_dict())) == set(large.state_dict()) - set(small.state_dict())
    with pytest.raises(ValueError, match=r'not in the checkpoint: feature_branch\.stages\.2\.'):
        load_image_checkpoint(large, small.state_dict())
    with pytest.raises(ValueError, match=r'not in the checkpoint: .*feature_branch\.stages\.2\.'):
        load_image_checkpoint(narrow_shadow('resnet18'), small.state_dict())


@pytest.mark.parametrize(
    ('given', 'wanted', 'fact'),
    [
        ({}, {'last_z2x': False}, r'not in the model: latent_branch\.last_z2x\.'),
        ({'last_z2x': False}, {}, r'not in the checkpoint: latent_branch\.last_z2x\.'),
        ({}, {'z2x': False}, r'not in the model: latent_branch\.z2x\.0\.'),
        ({}, {'x2z': False, 'num_stages': 2}, r'not in the model: latent_branch\.x2z\.1\.'),
        ({}, {'token_mixers': False, 'num_stages': 1}, r'not in the model: latent_branch\.mixers\.0\.'),
        ({'dwc': False}, {'num_stages': 1}, r'not in the checkpoint: latent_branch\.x2z\.0\.dwc\.weight'),
        ({'num_latents': 32}, {'num_stages': 1}, r'32 latent tokens of 8 channels, the model 16 of 8'),
        ({'width': 0.25}, {'num_stages': 1}, r'16 latent tokens of 16 channels, the model 16 of 8'),
    ],
    ids=_id,
)
def test_another_variant_stays_refused(given: dict[str, Any], wanted: dict[str, Any], fact: str) -> None:
    weights = {key: torch.zeros(value.shape) for key, value in narrow_shadow('resnet18', **given).state_dict().items()}
    backbone = narrow_model('resnet18', num_classes=None, **wanted)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(ValueError, match=fact) as caught:
        load_image_checkpoint(backbone, weights)
    assert 'the checkpoint is of another variant than the model' in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items()), 'nothing was loaded'


def test_costs_end_where_the_backbone_ends() -> None:
    model = narrow_shadow('resnet18', num_classes=None, num_stages=2)
    costs = count_exit_costs(model, 64, 64)
    assert [cost.segment_gmacs > 0 for cost in costs] == [True, False, False, False]
    assert costs[0].num_params == sum(parameter.numel() for parameter in model.parameters())


def _refused(pattern: str, **changes: Any) -> None:
    with pytest.raises(ValueError, match=pattern):
        build_model('resnet18', width=0.125, num_latents=16, depth_factors=(1, 1, 1, 1), **{'num_classes': None, **changes})


@pytest.mark.parametrize('num_stages', [0, -1, 5])
def test_number_of_stages(num_stages: int) -> None:
    _refused(rf'num_stages={num_stages} with num_classes=None: 4 stages with exits, 1 to 4 in a backbone', num_stages=num_stages)


def test_exits_need_all_stages() -> None:
    _refused(r'num_stages=3 with num_classes=5: 4 stages with exits, 1 to 4 in a backbone', num_stages=3, num_classes=5)


@pytest.mark.parametrize(('num_stages', 'last_z2x'), [(4, False), (3, True), (1, True)])
def test_a_latent_code_that_writes_nowhere(num_stages: int, last_z2x: bool) -> None:
    pattern = (
        rf'z2x=False, last_z2x={last_z2x}, num_stages={num_stages} without exits: the latent code reaches none of the feature maps; '
        r'switch z2x or \(with 4 stages\) last_z2x on, or take the feature branch alone'
    )
    _refused(pattern, num_stages=num_stages, last_z2x=last_z2x, z2x=False)


@pytest.mark.parametrize('name', ['resnet18', 'mobilenet_v3_large'])
@torch.no_grad()
def test_levels(name: str) -> None:
    model = shared_narrow_model(name)
    images = standard_normal(IMAGES)
    everything = model.pyramid(images, (0, *STAGES))
    assert [tuple(level.shape[1:]) for level in everything] == [
        (channels, ceil(48 / stride), 64 // stride)
        for channels, stride in zip(model.feature_branch.channels, model.feature_branch.strides, strict=True)
    ]
    assert torch.equal(everything[0], model.feature_branch.stem(images.contiguous(memory_format=torch.channels_last)))
    for levels in ((0,), (4,), (1, 3), (0, 2, 4), model.feature_branch.pyramid_levels):
        given = model.pyramid(images, levels)
        assert len(given) == len(levels)
        assert all(torch.equal(feature, everything[level]) for feature, level in zip(given, levels, strict=True))
    trunk = model.feature_branch.pyramid(images, (0, 2))
    assert torch.equal(trunk[0], everything[0])
    assert not torch.equal(trunk[1], everything[2]), 'the latent code writes to the map'


def test_pyramid_levels_are_the_last_of_each_stride() -> None:
    assert pyramid_levels((4, 4, 8, 16, 32)) == pyramid_levels((2, 4, 8, 16, 32)) == (1, 2, 3, 4)
    assert pyramid_levels((4, 8, 16, 32, 32)) == (0, 1, 2, 4)
    for name, variant in FEATURE_BRANCHES.items():
        with torch.device('meta'):
            branch = build_feature_branch(name)
        assert branch.pyramid_levels == pyramid_levels(variant.strides)


@pytest.mark.parametrize('levels', [(), (2, 1), (1, 1), (-1,), (1, 3), (1, 2, 3, 4)])
def test_levels_that_are_not_there(levels: tuple[int, ...]) -> None:
    """A stage that was not built hands on an earlier map, which must not pass for a later one."""
    model = narrow_shadow('resnet18', num_classes=None, num_stages=2)
    for network in (model, model.feature_branch):
        with pytest.raises(ValueError, match=r'of a network with 2 stages: pass one or more of \(0, 1, 2\) in rising order') as caught:
            network.pyramid(torch.empty(1, 3, 32, 32, device='meta'), levels)
        assert f'levels={levels}' in str(caught.value)


@torch.no_grad()
@pytest.mark.parametrize('num_frames', [1, 2])
def test_narrowing_keeps_the_levels(num_frames: int) -> None:
    model = narrow_model('resnet18', num_frames=num_frames)
    images = standard_normal((4 * num_frames, 3, 64, 64))
    expected = model.pyramid(images, (0, 2, 3))
    _, state = model.segments[0](model.start(images, collect_pyramid=True, levels=(0, 2, 3)))
    assert len(state.pyramid) == 2
    state = state.select(torch.tensor([3, 1]))
    assert state.levels == (0, 2, 3)
    for segment in model.segments[1:]:
        logits, state = segment(state)
        assert logits is None
    rows = [3, 1] if num_frames == 1 else [6, 7, 2, 3]
    for given, whole in zip(state.pyramid, expected, strict=True):
        torch.testing.assert_close(given, whole[rows], rtol=1e-10, atol=1e-10)
