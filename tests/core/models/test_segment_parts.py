"""What a network publishes about its segments is what they are made of."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import pytest
import torch
from core_models import SWITCHES, narrow_model, narrow_shadow, shared_narrow_model, standard_normal
from three_exits import three_exits

from dynperceiver import DynPerceiver
from dynperceiver.feature_branches import FEATURE_BRANCHES
from dynperceiver.models import PAPER_SEGMENTS, ExitHeads

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in FEATURE_BRANCHES),
    *(('resnet18', {name: False}) for name in SWITCHES),
    ('resnet18', dict.fromkeys(SWITCHES, False)),
    ('resnet18', {'early_exits': 'feature'}),
    ('resnet18', {'num_classes': None}),
    ('mobilenet_v3_large', {'num_classes': None, 'num_stages': 2}),
]


def _owners(model: DynPerceiver, name: str) -> list[int]:
    """Segments that a parameter or module belongs to."""
    return [
        parts.number for parts in model.segment_parts for module in parts.modules if name == module or name.startswith(f'{module}.')
    ]


@pytest.mark.parametrize(('name', 'changes'), VARIANTS, ids=str)
def test_every_tensor_belongs_to_one_segment(name: str, changes: dict[str, Any]) -> None:
    model = narrow_shadow(name, **changes)
    assert [parts.number for parts in model.segment_parts] == [segment.number for segment in model.segments]
    for key in model.state_dict():
        assert len(_owners(model, key)) == 1, key
    for module in (module for parts in model.segment_parts for module in parts.modules):
        assert attrgetter(module)(model) is not None


@torch.no_grad()
@pytest.mark.parametrize('model', [shared_narrow_model('resnet18'), three_exits()[0]], ids=['paper', 'three exits'])
def test_a_segment_calls_its_parts_and_no_others(model: DynPerceiver) -> None:
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda _module, _args, _output, name=name: ran.append(name))
        for name, module in model.named_modules()
        if name and not list(module.children())
    ]
    state: Any = standard_normal((2, 3, 64, 64))
    for segment in model.segments:
        ran.clear()
        _, state = segment(state)
        assert ran
        assert {owner for name in ran for owner in _owners(model, name)} == {segment.number}
    for handle in handles:
        handle.remove()


def test_the_papers_segments() -> None:
    model = shared_narrow_model('mobilenet_v3_large')
    assert model.num_exits == 4
    assert [parts.stages('cnn') for parts in model.segment_parts] == [(1, 2), (3,), (4,), ()]
    assert [parts.stages('read') for parts in model.segment_parts] == [(1, 2, 3), (4,), (), ()]
    assert [parts.exit_module for parts in model.segment_parts] == ['exits.0', 'exits.1', 'exits.2', 'exits.3']
    assert [parts.hands_on_logits for parts in model.segment_parts] == [True, True, False, False]
    code, earlier, feature = 'latent_BNC', 'previous_logits_BK', 'feature_BCHW'
    assert [parts.exit_reads for parts in model.segment_parts] == [(code, earlier), (code, earlier), (feature,), (feature, code, earlier)]
    assert model.exits.trunk_exit_index == 2
    assert model.segment_parts[1].modules == (
        'feature_branch.stages.2', 'latent_branch.mixers.2', 'latent_branch.expanders.2', 'latent_branch.z2x.2', 'latent_branch.x2z.3',
        'latent_branch.blocks.3', 'exits.1',
    )  # fmt: skip


@pytest.mark.parametrize('num_stages', [1, 2, 3, 4])
def test_what_a_backbone_builds(num_stages: int) -> None:
    model = narrow_shadow('resnet18', num_classes=None, num_stages=num_stages)
    assert model.num_exits == 0
    assert {parts.exit_module for parts in model.segment_parts} == {None}
    keys = set(model.state_dict())
    for step in (step for parts in model.segment_parts for step in parts.steps):
        for name in step.modules:
            assert any(key == name or key.startswith(f'{name}.') for key in keys) == model.builds(step), name
            assert (f'{name}.' in model.unused_prefixes) == (not model.builds(step)), name
    assert ('feature_branch.stages.3.' in model.unused_prefixes) == (num_stages < 4)
    assert model.feature_branch.unused_prefixes == tuple(f'stages.{i}.' for i in range(num_stages, 4))


def test_parts_of_a_stage_are_all_its_parameters() -> None:
    model = shared_narrow_model('resnet18')
    seen: list[int] = []
    for stage in range(5):
        for part in model.stage_parts(stage):
            seen += [id(part)] if isinstance(part, torch.nn.Parameter) else [id(parameter) for parameter in part.parameters()]
    assert sorted(seen) == sorted(id(parameter) for name, parameter in model.named_parameters() if not name.startswith('exits.'))
    assert list(model.stage_parts(0)) == [model.feature_branch.stem, model.latent_branch.latent]
    assert list(model.stage_parts(4))[-1] is model.latent_branch.last_z2x


def test_segments_that_do_not_go_together() -> None:
    whole = narrow_model()
    parts = (whole.feature_branch, whole.latent_branch)
    with pytest.raises(ValueError, match=r'4 exits for 3 segments: every segment ends in one exit; pass one per segment, or None'):
        DynPerceiver(*parts, whole.exits, steps=PAPER_SEGMENTS[:3])
    with pytest.raises(ValueError, match=r'stages of the CNN in the order \[0, 1, 2, 4\] \(0 is the stem\).*leave no stage out'):
        DynPerceiver(*parts, None, steps=(PAPER_SEGMENTS[0], PAPER_SEGMENTS[2]))
    assert DynPerceiver(*parts, None, steps=PAPER_SEGMENTS[:3]).num_exits == 0
    assert len(ExitHeads(whole.feature_branch.channels, 5)) == len(PAPER_SEGMENTS)
