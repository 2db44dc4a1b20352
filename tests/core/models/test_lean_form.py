"""The lean form: what it is made of, what stays frozen, what it refuses."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from core_models import NARROW_WIDTHS, narrow_model, standard_normal
from lean_networks import LEAN, lean_model

from dynperceiver import DynPerceiver, build_model
from dynperceiver.analysis import count_exit_costs
from dynperceiver.deployment.folding import fold
from dynperceiver.feature_branches import FEATURE_BRANCHES
from dynperceiver.layers import MapReader
from dynperceiver.layers.recording import record_attention
from dynperceiver.losses import MultiExitLoss
from dynperceiver.models import StaticTrunk, build_static_trunk
from dynperceiver.models.exits import JoinedExit, ProbeExit
from dynperceiver.structures import TrunkOutputs


def _trunk_of(name: str, network: DynPerceiver) -> StaticTrunk:
    trunk = build_static_trunk(name, width=NARROW_WIDTHS.get(name, 1.0), num_classes=7).to(next(network.parameters()).dtype).eval()
    assert network.exits is not None
    trunk.feature_branch.load_state_dict(network.feature_branch.state_dict())
    trunk.exits[0].load_state_dict(network.exits[network.exits.trunk_exit_index].state_dict())
    return trunk


@pytest.mark.parametrize('name', FEATURE_BRANCHES)
@torch.no_grad()
def test_the_last_exit_is_the_trunk(name: str) -> None:
    network = lean_model(name, torch.float32, frozen_trunk=True)
    trunk = _trunk_of(name, network)
    images = standard_normal((2, 3, 64, 64)).float()
    logits = network(images)
    assert len(logits) == network.num_exits == len(network.segments) == 3
    assert torch.equal(logits[-1], trunk(images)[0])
    assert all(one.isfinite().all() and one.shape == (2, 7) for one in logits)
    assert not torch.allclose(logits[0], logits[1])


@pytest.mark.parametrize(
    ('changes', 'num_exits'),
    [
        ({}, 3),
        ({'read_maps': (3,)}, 2),
        ({'read_maps': (0, 1, 2, 3)}, 5),
        ({'read_maps': (1, 2, 3), 'exit_maps': (2,)}, 2),
        ({'read_maps': (1,), 'exit_maps': (1, 2)}, 3),
        ({'merged_exit': True}, 4),
        ({'z2x': True, 'merged_exit': True, 'last_z2x': True}, 4),
        ({'early_exits': 'latent'}, 3),
        ({'early_exits': 'feature'}, 3),
        ({'early_exits': 'latent', 'fkt': True, 'merged_exit': True}, 4),
        ({'early_exits': 'probe'}, 3),
        ({'early_exits': 'probe', 'exit_maps': (0, 1, 2, 3), 'probe_channels': 9}, 5),
        ({'early_exits': 'probe', 'read_maps': (2,), 'exit_maps': (1, 2)}, 3),
        ({'dwc': True}, 3),
        ({'depth_factors': (0, 0, 2 / 9, 0)}, 3),
        ({'max_tokens': 9, 'widening': 1}, 3),
        ({'num_latents': 1}, 3),
        ({'latent_depth': 0}, 3),
        ({'latent_depth': 2, 'lift_channels': 9}, 3),
    ],
)
def test_exits_are_as_many_as_published(changes: dict[str, Any], num_exits: int) -> None:
    network = lean_model(**changes)
    assert network.exits is not None
    logits = network(standard_normal((2, 3, 64, 64)))
    assert len(logits) == network.num_exits == len(network.segment_parts) == num_exits
    assert network.exits.trunk_exit_index == num_exits - 1 - bool(changes.get('merged_exit'))
    costs = count_exit_costs(network, 64, 64)
    assert [cost.number for cost in costs] == list(range(1, num_exits + 1))
    assert all(before.cost_gmacs < after.cost_gmacs for before, after in pairwise(costs))
    assert costs[-1].num_params == sum(parameter.numel() for name, parameter in network.named_parameters() if _is_used(network, name))
    state = network.start(standard_normal((2, 3, 64, 64)))
    for segment, expected in zip(network.segments, logits, strict=True):
        one, state = segment(state)
        torch.testing.assert_close(one, expected[-len(one) :])
        state = state.select(torch.tensor([state.num_samples - 1]))


def _is_used(network: DynPerceiver, name: str) -> bool:
    return any(name.startswith((f'{module}.', module)) for parts in network.segment_parts for module in parts.modules)


def test_lean_by_default() -> None:
    network = lean_model()
    branch, exits = network.latent_branch, network.exits
    assert exits is not None
    assert [number for number, reader in branch.readers.items() if isinstance(reader, MapReader)] == [3, 4]
    assert [type(one) for one in exits][:2] == [JoinedExit, JoinedExit]
    assert branch.widths == (16,) * 4
    assert [len(blocks) if hasattr(blocks, '__len__') else 0 for blocks in branch.blocks] == [0, 0, 1, 1]
    assert [parts.stages('write') + parts.stages('expand') for parts in network.segment_parts] == [(), (), ()]
    assert not any(isinstance(module, torch.nn.Conv2d) for module in branch.modules())
    probes = lean_model(early_exits='probe', probe_channels=9)
    assert probes.exits is not None and all(isinstance(one, ProbeExit) for one in list(probes.exits)[:2])
    assert not list(probes.latent_branch.x2z.parameters())


def test_what_a_default_of_the_paper_is_stays() -> None:
    plain = narrow_model()
    named = narrow_model(early_exits='latent', merged_exit=True, widening=4, read_maps=(0, 1, 2, 3), exit_maps=(2, 3))
    images = standard_normal((2, 3, 64, 64))
    assert plain.state_dict().keys() == named.state_dict().keys()
    assert plain.segment_parts == named.segment_parts
    for one, same in zip(plain(images), named(images), strict=True):
        assert torch.equal(one, same)


@pytest.mark.parametrize('size', [(104, 104), (150, 97), (33, 64)])
def test_sides_that_nothing_divides(size: tuple[int, int]) -> None:
    network = lean_model(max_tokens=4)
    for logits in network(standard_normal((2, 3, *size))):
        assert logits.shape == (2, 7) and logits.isfinite().all()


def _step(network: DynPerceiver) -> None:
    network.train()
    loss = MultiExitLoss((1.0,) * (network.num_exits - 1) + (0.0,), 1.0)(network(standard_normal((4, 3, 64, 64))), torch.arange(4))
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, 0.5, weight_decay=0.1)
    sum(value for name, value in loss.items() if 'loss' in name).backward()  # type: ignore[union-attr]
    optimizer.step()


@pytest.mark.parametrize('name', ['resnet18', 'mobilenet_v3_large', 'efficientnet_lite0'])
def test_a_step_leaves_a_frozen_trunk_as_it_was(name: str) -> None:
    network = lean_model(name, frozen_trunk=True, drop_path=0.5, dropout=0.5)
    assert network.exits is not None
    kept = ('feature_branch.', f'exits.{network.exits.trunk_exit_index}.')
    before = {key: value.clone() for key, value in network.state_dict().items()}
    images = standard_normal((2, 3, 64, 64))
    answer = network(images)[-1]
    _step(network)
    assert network.training and not network.feature_branch.stages[3].training
    assert torch.equal(network(images)[-1], answer), 'no dropout and no stochastic depth there while training, either'
    after = network.state_dict()
    assert [key for key in after if key.startswith(kept) and not torch.equal(after[key], before[key])] == []
    for key, parameter in network.named_parameters():
        assert parameter.requires_grad != key.startswith(kept)
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.any(), key
    moved = [key for key in after if key.endswith('running_mean') and not torch.equal(after[key], before[key])]
    assert moved == ['exits.0.feature_norm.running_mean', 'exits.1.feature_norm.running_mean']


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2, 4])
def test_first_stages_alone(frozen_stages: int) -> None:
    network = lean_model(frozen_stages=frozen_stages)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    _step(network)
    after = network.state_dict()
    parts = ['stem', 'stages.0', 'stages.1', 'stages.2', 'stages.3']
    for number, part in enumerate(parts):
        keys = [key for key in after if key.startswith(f'feature_branch.{part}.') and not key.endswith('num_batches_tracked')]
        assert all(torch.equal(after[key], before[key]) == (number <= frozen_stages) for key in keys), part


def test_maps_in_the_place_of_images() -> None:
    network = lean_model(frozen_trunk=True)
    images = standard_normal((3, 3, 64, 64))
    with torch.no_grad():
        logits = network(images)
        maps = dict(zip((2, 3), network.feature_branch.pyramid(images, (2, 3)), strict=True))
        replayed = network(TrunkOutputs(maps, logits[-1]))
    for one, same in zip(replayed, logits, strict=True):
        assert torch.equal(one, same)
    with pytest.raises(ValueError, match='kept outputs of the CNN runs as a whole'):
        network.start(TrunkOutputs(maps, logits[-1])).select(torch.tensor([0]))


def test_attention_is_recorded() -> None:
    network = lean_model(max_tokens=9)
    with record_attention(network.latent_branch.readers) as weights:
        network(standard_normal((2, 3, 64, 64)))
    assert {stage: tuple(one.shape) for stage, one in weights.items()} == {3: (2, 4, 5, 4), 4: (2, 4, 5, 4)}
    for one in weights.values():
        torch.testing.assert_close(one.sum(-1), torch.ones_like(one[..., 0]))
    assert network.exits_of_stages == {3: None, 4: None}, 'joined exits do not classify the code alone'
    assert lean_model(early_exits='latent').exits_of_stages == {3: 1, 4: 2}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({'latent_width': 0}, 'latent_width=0: its attention has 4 heads; pass a positive multiple of 4'),
    ({'latent_width': -8}, 'latent_width=-8: '),
    ({'latent_width': 6}, 'latent_width=6: '),
    ({'latent_width': True}, 'latent_width=True: '),
    ({'num_latents': 0}, 'num_latents=0: a code has at least one token'),
    ({'num_classes': 0}, 'num_classes=0: '),
    ({'max_tokens': 0}, 'max_tokens=0: pass the number of tokens'),
    ({'read_maps': (3, 2)}, r'read_maps=\(3, 2\): pass numbers i of maps x_i, rising, from 0 \(the stem\'s\) to 3'),
    ({'read_maps': (2, 2)}, r'read_maps=\(2, 2\): '),
    ({'read_maps': (2, 4)}, r'read_maps=\(2, 4\): '),
    ({'read_maps': (-1,)}, r'read_maps=\(-1,\): '),
    ({'exit_maps': (4,)}, r'exit_maps=\(4,\): '),
    ({'exit_maps': ()}, r'exit_maps=\(\): there is no early exit'),
    ({'read_maps': (3,), 'exit_maps': (2, 3)}, 'the code has read nothing before the first exit'),
    ({'read_maps': (), 'exit_maps': (2,)}, 'the code has read nothing before the first exit'),
    ({'x2z': False}, r'x2z=False with read_maps=\(2, 3\): nothing is read'),
    ({'dwc': True, 'max_tokens': 49}, 'dwc=True with max_tokens=49: '),
    ({'fkt': True}, "fkt=True with early_exits='joined'"),
    ({'token_mixers': True, 'num_latents': 8}, 'token_mixers=True with latent_width'),
    ({'last_z2x': True}, 'last_z2x=True with merged_exit=False'),
    ({'frozen_trunk': True, 'z2x': True}, 'frozen_trunk=True with z2x or last_z2x'),
    ({'frozen_trunk': True, 'merged_exit': True, 'last_z2x': True}, 'frozen_trunk=True with z2x or last_z2x'),
    ({'frozen_stages': 5}, 'frozen_stages=5: pass -1 for none, 0 for the stem, or up to 4'),
    ({'early_exits': 'middle'}, "early_exits='middle': choose what the early exits classify, 'latent', 'feature', 'joined', 'probe'"),
    ({'latent_depth': -1}, 'latent_depth=-1: pass 0 or more'),
    ({'latent_depth': 1, 'latent_width': None, 'num_latents': 8, 'depth_factors': (1, 1, 1, 1)}, 'together with latent_width'),
    ({'lift_channels': 0}, 'lift_channels=0 with '),
    ({'lift_channels': 9, 'early_exits': 'latent'}, "lift_channels=9 with early_exits='latent'"),
    ({'depth_factors': (1, 1)}, 'one factor for each of the four stages'),
    ({'num_stages': 3}, 'num_stages=3 with num_classes=7: 4 stages with exits'),
    ({'num_classes': None}, 'the latent code reaches none of the feature maps'),
]


@pytest.mark.parametrize(('changes', 'message'), REFUSED, ids=lambda value: str(value)[:40])
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model('resnet18', width=0.125, **{**LEAN, **changes})


SHALLOW = (1 / 3, 1 / 3, 1 / 9, 1 / 3)
PAPER_READS = ({'read_maps': (1, 3), 'exit_maps': (1, 3)}, {'read_maps': (0, 2), 'exit_maps': (2,)}, {'exit_maps': (1, 2, 3)})


@pytest.mark.parametrize('changes', PAPER_READS, ids=str)
def test_fewer_reads_and_other_exits_in_the_paper_form(changes: dict[str, Any]) -> None:
    network = lean_model(**{**dict(latent_width=None, num_latents=8, depth_factors=SHALLOW), **changes})
    images = standard_normal((2, 3, 64, 64))
    logits = network(images)
    assert len(logits) == network.num_exits == len(changes['exit_maps']) + 2
    for one, same in zip(fold(network, (64, 64))(images), logits, strict=True):
        torch.testing.assert_close(one, same)


def test_frozen_in_the_paper_form() -> None:
    with pytest.raises(ValueError, match='frozen_trunk=True with z2x or last_z2x'):
        build_model('resnet18', width=0.125, num_latents=16, depth_factors=(1, 1, 1, 1), frozen_trunk=True)


def test_checkpoints_round(tmp_path: Path) -> None:
    network = lean_model(frozen_trunk=True)
    torch.save(network.state_dict(), tmp_path / 'lean.pth')
    other = build_model('resnet18', width=0.125, **LEAN).double().eval()
    other.load_state_dict(torch.load(tmp_path / 'lean.pth', weights_only=True))
    images = standard_normal((2, 3, 64, 64))
    for one, same in zip(other(images), network(images), strict=True):
        assert torch.equal(one, same)


@pytest.mark.parametrize(
    'changes',
    [
        {'latent_width': 32},
        {'num_latents': 4},
        {'read_maps': (1, 2, 3)},
        {'read_maps': (1, 3)},
        {'max_tokens': 49},
        {'merged_exit': True},
        {'early_exits': 'latent'},
        {'early_exits': 'probe'},
        {'early_exits': 'feature'},
        {'widening': 4},
        {'depth_factors': (1 / 3, 1 / 3, 2 / 9, 1 / 3)},
        {'feature_branch': 'resnet34'},
        {'num_classes': 8},
    ],
    ids=str,
)
def test_checkpoints_of_other_variants_are_refused(changes: dict[str, Any]) -> None:
    changes = {'feature_branch': 'resnet18', **changes}
    with pytest.raises(ValueError, match='the checkpoint is of another variant than the model'):
        lean_model(**changes).load_state_dict(lean_model().state_dict())


def test_paper_and_lean_do_not_mix() -> None:
    lean, paper = lean_model(num_classes=5), narrow_model()
    for one, other in ((lean, paper), (paper, lean)):
        with pytest.raises(ValueError, match='of another variant than the model'):
            one.load_state_dict(other.state_dict(), strict=False)


@torch.no_grad()
def test_clips_are_read_frame_by_frame() -> None:
    clips = lean_model(num_frames=4, temporal_shift='bidirectional', frozen_trunk=True)
    frames = standard_normal((8, 3, 64, 64))
    logits = clips(frames)
    assert [tuple(one.shape) for one in logits] == [(2, 7)] * 3
    image = lean_model(frozen_trunk=True)
    image.load_state_dict(clips.state_dict())
    still = frames[:1].expand(4, -1, -1, -1)
    assert not torch.allclose(clips(still)[0], image(still)[:1][0].mean(0, keepdim=True)), 'the shift is there'
    plain = lean_model(num_frames=4)
    for one, same in zip(plain(frames), image(frames), strict=True):
        torch.testing.assert_close(one, same.unflatten(0, (2, 4)).mean(1))
    state = clips.start(frames)
    for number, segment in enumerate(clips.segments):
        one, state = segment(state)
        torch.testing.assert_close(one, logits[number][-len(one) :])
        state = state.select(torch.tensor([state.num_samples - 1]))
