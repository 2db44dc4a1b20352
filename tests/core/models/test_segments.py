"""The loop over four segments: stepping, stopping early, narrowing the batch, memory layout."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from core_models import narrow_model, shared_narrow_model, standard_normal
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from dynperceiver import DynPerceiver, NetworkState

BRANCHES = ('resnet18', 'regnet_y_400mf', 'mobilenet_v3_large')
IMAGES = (5, 3, 64, 64)


@pytest.fixture(params=BRANCHES)
def model(request: pytest.FixtureRequest) -> DynPerceiver:
    return shared_narrow_model(request.param)


@torch.no_grad()
def test_stepping_by_hand_equals_forward(model: DynPerceiver) -> None:
    images = standard_normal(IMAGES)
    state: NetworkState | Tensor = images
    stepped = []
    for segment in model.segments:
        logits, state = segment(state)
        stepped.append(logits)
    assert len(stepped) == 4
    for logits, whole in zip(stepped, model(images), strict=True):
        assert logits.shape == (5, 5)
        torch.testing.assert_close(logits, whole, rtol=0, atol=0)


@torch.no_grad()
def test_nothing_runs_before_it_is_asked_for() -> None:
    model = narrow_model()
    ran: list[str] = []
    watched = {f'stage{i}': stage for i, stage in enumerate(model.feature_branch.stages, 1)}
    watched |= {f'latent{i}': blocks for i, blocks in enumerate(model.latent_branch.blocks, 1)}
    watched |= {f'exit{k}': head for k, head in enumerate(model.exits, 1)}
    watched |= {f'z2x{i}': writer for i, writer in enumerate([*model.latent_branch.z2x, model.latent_branch.last_z2x], 1)}
    for name, module in watched.items():
        module.register_forward_hook(lambda _module, _args, _output, name=name: ran.append(name))
    loop = model.run(model.start(standard_normal(IMAGES)))
    assert ran == []
    expected = [
        ['latent1', 'stage1', 'z2x1', 'latent2', 'stage2', 'z2x2', 'latent3', 'exit1'],
        ['stage3', 'z2x3', 'latent4', 'exit2'],
        ['stage4', 'exit3'],
        ['z2x4', 'exit4'],
    ]
    for names in expected:
        next(loop)
        assert ran == names
        ran.clear()
    with pytest.raises(StopIteration):
        next(loop)


@torch.no_grad()
def test_pyramid_evaluates_no_exit() -> None:
    model = narrow_model()
    for head in model.exits:
        head.register_forward_hook(lambda *_: pytest.fail('an exit was evaluated'))
    loop = list(model.run(model.start(standard_normal(IMAGES), collect_pyramid=True)))
    assert [logits for logits, _ in loop] == [None] * 4
    assert [len(state.pyramid) for _, state in loop] == [2, 3, 3, 4]
    for level, same in zip(model.pyramid(standard_normal(IMAGES)), loop[-1][1].pyramid, strict=True):
        torch.testing.assert_close(level, same)


@torch.no_grad()
@pytest.mark.parametrize('after', [1, 2, 3])
def test_going_on_with_some_samples_equals_their_rows(model: DynPerceiver, after: int) -> None:
    images = standard_normal(IMAGES)
    whole = model(images)
    kept = torch.tensor([4, 0, 3])
    state: NetworkState | Tensor = images
    for segment in model.segments[:after]:
        _, state = segment(state)
    state = state.select(kept)
    for k, segment in enumerate(model.segments[after:], after):
        logits, state = segment(state)
        torch.testing.assert_close(logits, whole[k][kept], rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_narrowing_again_and_again(model: DynPerceiver) -> None:
    images = standard_normal(IMAGES)
    whole = model(images)
    state, rows = model.start(images), torch.arange(5)
    for k, segment in enumerate(model.segments):
        logits, state = segment(state)
        torch.testing.assert_close(logits, whole[k][rows], rtol=1e-10, atol=1e-10)
        stays = torch.arange(len(rows)) != 1
        state, rows = state.select(stays), rows[stays]
    assert rows.tolist() == [0]


@torch.no_grad()
def test_a_batch_of_nothing(model: DynPerceiver) -> None:
    assert [logits.shape for logits in model(standard_normal((0, 3, 64, 64)))] == [(0, 5)] * 4
    state: NetworkState | Tensor = standard_normal(IMAGES)
    _, state = model.segments[0](state)
    state = state.select(torch.zeros(5, dtype=torch.bool))
    for segment in model.segments[1:]:
        logits, state = segment(state)
        assert logits.shape == (0, 5)


def test_a_later_segment_needs_a_state() -> None:
    model = shared_narrow_model('resnet18')
    with pytest.raises(ValueError, match='segment 3 got a state without latent code; pass it the state that segment 2 returned'):
        model.segments[2](standard_normal(IMAGES))


def test_segments_own_no_parameters() -> None:
    model = shared_narrow_model('resnet18')
    assert list(model.segments.parameters()) == []
    assert {key.split('.')[0] for key in model.state_dict()} == {'feature_branch', 'latent_branch', 'exits'}


@torch.no_grad()
@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=['deepcopy', 'pickle'])
def test_a_copy_runs_on_its_own_weights(duplicate: object) -> None:
    model = narrow_model()
    images = standard_normal((2, 3, 64, 64))
    before = model(images)
    twin = duplicate(model)
    for parameter in model.parameters():
        parameter.zero_()
    for logits, same in zip(twin(images), before, strict=True):
        torch.testing.assert_close(logits, same, rtol=0, atol=0)


@torch.no_grad()
def test_maps_stay_channels_last(model: DynPerceiver) -> None:
    state = model.start(standard_normal(IMAGES))
    for segment in model.segments:
        _, state = segment(state)
        assert state.feature_BCHW.is_contiguous(memory_format=torch.channels_last)
        narrow = state.select(torch.tensor([3, 1]))
        assert narrow.feature_BCHW.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
@pytest.mark.parametrize('name', BRANCHES)
def test_no_map_is_copied_on_the_way(name: str) -> None:
    """Between channels-last maps and tokens there are only views; the one copy is that of the images themselves."""
    model = narrow_model(name, dtype=torch.float32)
    images = torch.randn(4, 3, 256, 256)
    model(images)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        model(images)
    copies = [
        (event.name, event.input_shapes[0])
        for event in profiler.events()
        if event.name in ('aten::copy_', 'aten::clone', 'aten::_to_copy') and event.input_shapes[0][:1] == [4]
    ]
    maps = [copied for copied in copies if torch.Size(copied[1]).numel() >= 4 * 8 * 64 * 64 and copied[1][1:2] != [3]]
    assert copies, 'the profiler reported nothing'
    assert maps == []
