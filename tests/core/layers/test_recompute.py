"""Activation checkpointing: the same numbers with less memory."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from core_models import narrow_model, standard_normal
from torch import Tensor, nn

from dynperceiver.layers import BlockSequence, DropPath, call_with_cp, set_with_cp

MEMORY_RATIO = 0.36  # of the bytes without checkpointing; measured: 0.30 on a narrow ResNet-50


class Residual(nn.Module):
    """A block with everything that a recomputation could get wrong: a norm's statistics, and random numbers."""

    def __init__(self, momentum: float | None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4, momentum=momentum)
        self.dropout = nn.Dropout(0.3)
        self.drop_path = DropPath(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.dropout(self.norm(self.conv(x)).relu()))


def _twins(momentum: float | None = 0.1, depth: int = 3) -> tuple[BlockSequence, BlockSequence]:
    plain = BlockSequence(*(Residual(momentum) for _ in range(depth))).double()
    twin = copy.deepcopy(plain)
    set_with_cp(twin)
    return plain, twin


def _step(module: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Output and gradients of a step, with random numbers from a fixed state."""
    torch.manual_seed(3)
    output = module(x)
    module.zero_grad()
    output.square().sum().backward()
    return output.detach(), {key: parameter.grad for key, parameter in module.named_parameters() if parameter.grad is not None}


def _assert_same(given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert given.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(given[key], value), key


@pytest.mark.parametrize('momentum', [0.1, 0.3, None])
def test_a_training_step_is_the_same_bit_for_bit(momentum: float | None) -> None:
    plain, twin = _twins(momentum)
    for step in range(3):
        x = standard_normal((6, 4, 5, 7), seed=step)
        output, gradients = _step(plain, x)
        same, same_gradients = _step(twin, x)
        assert torch.equal(same, output)
        _assert_same(same_gradients, gradients)
        _assert_same(twin.state_dict(), plain.state_dict())
        assert {block.norm.num_batches_tracked.item() for block in twin} == {step + 1}, 'a batch counts once'
        assert {block.norm.momentum for block in twin} == {momentum}, 'the recomputation leaves the momentum as it was'


def test_gradients_reach_the_input() -> None:
    plain, twin = _twins()
    x, same = standard_normal((6, 4, 5, 7)).requires_grad_(), standard_normal((6, 4, 5, 7)).requires_grad_()
    _step(plain, x)
    _step(twin, same)
    assert torch.equal(x.grad, same.grad)


def test_random_numbers_are_drawn_alike() -> None:
    """Also those after the backward pass: it leaves the generator where it was."""
    plain, twin = _twins()
    x = standard_normal((6, 4, 5, 7))
    _step(plain, x)
    after = torch.rand(5)
    _step(twin, x)
    assert torch.equal(torch.rand(5), after)
    assert not torch.equal(plain(x), plain(x)), 'there is something random in it'


def test_norms_in_evaluation_mode_or_without_statistics() -> None:
    plain, twin = _twins()
    for module in (plain, twin):
        module[0].norm.eval()
        module[1].norm = nn.BatchNorm2d(4, track_running_stats=False).double()
    before = plain[0].norm.running_mean.clone()
    x = standard_normal((6, 4, 5, 7))
    _assert_same(_step(twin, x)[1], _step(plain, x)[1])
    _assert_same(twin.state_dict(), plain.state_dict())
    assert torch.equal(twin[0].norm.running_mean, before)
    assert twin[1].norm.num_batches_tracked is None


def test_a_failure_while_recomputing_restores_the_norms() -> None:
    block = Residual(0.1).double()
    output = call_with_cp(block, standard_normal((6, 4, 5, 7)))

    def fail(*_: object) -> None:
        raise RuntimeError('out of memory')

    block.dropout.register_forward_pre_hook(fail)
    counted = block.norm.num_batches_tracked
    with pytest.raises(RuntimeError, match='out of memory'):
        output.sum().backward()
    assert block.norm.momentum == 0.1
    assert block.norm.num_batches_tracked is counted
    assert counted.item() == 1


@pytest.mark.parametrize('grad', [True, False])
def test_each_block_runs_twice_only_where_there_are_gradients(grad: bool) -> None:
    _, twin = _twins()
    ran: list[int] = []
    for i, block in enumerate(twin):
        block.register_forward_pre_hook(lambda *_, i=i: ran.append(i))
    with torch.set_grad_enabled(grad):
        output = twin(standard_normal((2, 4, 5, 7)))
    assert ran == [0, 1, 2]
    if grad:
        output.sum().backward()
        assert ran == [0, 1, 2, 2, 1, 0], 'each again, when the backward pass reaches it'
    else:
        assert not output.requires_grad


@torch.no_grad()
def test_without_gradients_it_is_a_plain_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('dynperceiver.layers.recompute.checkpoint', lambda *_, **__: pytest.fail('something is kept to be recomputed'))
    plain, twin = _twins()
    x = standard_normal((2, 4, 5, 7))
    assert torch.equal(twin.eval()(x), plain.eval()(x))


def test_it_is_off_by_default_and_no_part_of_the_weights() -> None:
    plain, twin = _twins()
    assert not plain.with_cp
    assert twin.with_cp
    assert list(twin.state_dict()) == list(plain.state_dict()) == list(nn.Sequential(*plain).state_dict())
    assert copy.deepcopy(twin).with_cp
    set_with_cp(twin, False)
    assert not twin.with_cp
    assert not BlockSequence.with_cp, 'switched per network, not for all'


def _network(with_cp: bool, **changes: object) -> nn.Module:
    return narrow_model(num_classes=None, with_cp=with_cp, **changes).train()


def _loss(model: nn.Module, images: Tensor) -> Tensor:
    torch.manual_seed(3)
    return sum(level.square().sum() for level in model.pyramid(images))


@pytest.mark.parametrize('feature_branch', ['resnet50', 'regnet_y_400mf', 'mobilenet_v3_large'])
def test_a_network_trains_alike(feature_branch: str) -> None:
    images = standard_normal((2, 3, 32, 32))
    results = []
    for with_cp in (False, True):
        model = _network(with_cp, feature_branch=feature_branch, drop_path=0.3)
        loss = _loss(model, images)
        loss.backward()
        results.append((loss.detach(), {key: parameter.grad for key, parameter in model.named_parameters()}, model.state_dict()))
    (loss, gradients, weights), (same, same_gradients, same_weights) = results
    assert torch.equal(same, loss)
    assert all(gradient is not None for gradient in gradients.values())
    _assert_same(same_gradients, gradients)
    _assert_same(same_weights, weights)


def _kept_bytes(call: Callable[[], object], parameters: set[int]) -> int:
    """Bytes of the activations that autograd keeps for the backward pass, each memory counted once."""
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = call()
    assert graph is not None
    return sum(tensor.untyped_storage().nbytes() for pointer, tensor in kept.items() if pointer not in parameters)


def test_a_network_keeps_markedly_less() -> None:
    images = standard_normal((1, 3, 256, 256))
    sizes = []
    for with_cp in (False, True):
        model = _network(with_cp, feature_branch='resnet50')
        parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        sizes.append(_kept_bytes(lambda model=model: _loss(model, images), parameters))
    assert sizes[0] > 1e6, 'nothing was counted'
    assert sizes[1] / sizes[0] < MEMORY_RATIO, f'{sizes[1]} of {sizes[0]} bytes'
