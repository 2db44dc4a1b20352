"""Folding goes by what runs, not by the order of declaration; what cannot be folded exactly is left as it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from dynperceiver.deployment.batch_norms import Trace, fold_batch_norms
from dynperceiver.deployment.folding import fold

C = 6


class _Block(nn.Module):
    """Layers under names, in the order in which they are given, and what is done with them."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, feature: Tensor) -> Tensor:
        return self.run(self, feature)


def conv(kernel: int = 3, padding: Any = 1, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(C, C, kernel, padding=padding, **settings)


def norm(**settings: Any) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(C, **settings)


class _Standardized(nn.Conv2d):
    """Its weight is another one when it runs."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight - weight.mean((1, 2, 3), keepdim=True), bias)


class _Doubled(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class _Shifted(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


class _PaddedByHand(nn.Conv2d):
    """Zeros around, which no attribute tells of."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(F.pad(input, (1, 1, 1, 1)), weight, bias)


class _Negated(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, input: Tensor) -> Tensor:
        return -input

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Any:
        return -gradients[0]


@torch.jit.script
def _scripted(feature: Tensor) -> Tensor:
    return feature * 3


def _tied() -> dict[str, nn.Module]:
    layers = dict(conv1=conv(bias=False), conv2=conv(bias=False), bn1=norm(), bn2=norm())
    layers['conv2'].weight = layers['conv1'].weight
    return layers


def _patched(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> nn.Module:
    module.forward = forward  # type: ignore[method-assign]
    return module


def _older_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)
        return weight_norm(conv())


def _own_norm(bn: nn.BatchNorm2d, feature: Tensor) -> Tensor:
    return F.batch_norm(feature, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)


# Name: what runs, the layers as declared, and how many norms are left.
CASES: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[str, nn.Module], int]] = {
    'layers first, then norms': (
        lambda s, x: s.bn2(s.conv2(s.bn1(s.conv1(x)).relu())), dict(conv1=conv(), conv2=conv(), bn1=norm(), bn2=norm()), 0),
    'declared backwards': (
        lambda s, x: s.bn2(s.conv2(s.bn1(s.conv1(x)).relu())), dict(bn2=norm(), conv2=conv(), bn1=norm(), conv1=conv()), 0),
    'norms of one size crossed': (
        lambda s, x: s.bn1(s.conv2(s.bn2(s.conv1(x)).relu())), dict(conv1=conv(), bn1=norm(), conv2=conv(), bn2=norm()), 0),
    'pre-activation': (
        lambda s, x: x + s.conv2(s.bn2(s.conv1(s.bn1(x).relu())).relu()), dict(bn1=norm(), conv1=conv(), bn2=norm(), conv2=conv()), 1),
    'before a padded convolution': (lambda s, x: s.conv(s.bn(x)), dict(conv=conv(), bn=norm()), 1),
    'before a convolution that pads "same"': (lambda s, x: s.conv(s.bn(x)), dict(bn=norm(), conv=conv(padding='same')), 1),
    'before a convolution that pads by hand': (lambda s, x: s.conv(s.bn(x)), dict(bn=norm(), conv=_PaddedByHand(C, C, 3)), 1),
    'before a convolution without padding': (lambda s, x: s.conv(s.bn(x)), dict(bn=norm(), conv=conv(padding=0, stride=2)), 0),
    'before a 1x1 convolution that pads "same"': (lambda s, x: s.conv(s.bn(x)), dict(bn=norm(), conv=conv(1, 'same', bias=False)), 0),
    'before a convolution that pads "valid"': (lambda s, x: s.conv(s.bn(x)), dict(bn=norm(), conv=conv(3, 'valid')), 0),
    'before a convolution that reflects': (lambda s, x: s.conv(s.bn(x)), dict(bn=norm(), conv=conv(padding_mode='reflect')), 0),
    'before a grouped convolution': (lambda s, x: s.conv(s.bn(x)), dict(bn=norm(), conv=conv(padding=0, groups=3)), 0),
    'before a depthwise convolution': (lambda s, x: s.conv(s.bn(x)), dict(bn=norm(), conv=conv(2, 0, groups=C, bias=False)), 0),
    'before a transposed convolution': (lambda s, x: s.conv(s.bn(x)), dict(bn=norm(), conv=nn.ConvTranspose2d(C, C, 3)), 1),
    'a skip connection before the norm': (lambda s, x: (y := s.conv(x)) + s.bn(y), dict(conv=conv(), bn=norm()), 1),
    'a skip connection behind a view': (lambda s, x: s.bn(y := s.conv(x)) + y[:, :1], dict(conv=conv(), bn=norm()), 1),
    'read by scripted code': (lambda s, x: s.bn(y := s.conv(x)) + _scripted(y), dict(conv=conv(), bn=norm()), 1),
    'read by a function of its own': (lambda s, x: s.bn(y := s.conv(x)) + _Negated.apply(y), dict(conv=conv(), bn=norm()), 1),
    'read by another layer': (lambda s, x: s.bn(y := s.conv(x)) + s.other(y), dict(conv=conv(), other=conv(1, 0), bn=norm()), 1),
    'changed in place before the norm': (lambda s, x: s.bn(s.conv(x).add_(1)), dict(conv=conv(), bn=norm()), 1),
    'an operation between': (lambda s, x: s.bn(s.conv(x) * 2), dict(conv=conv(), bn=norm()), 1),
    'a pooling layer between': (lambda s, x: s.bn(s.pool(s.conv(x))), dict(conv=conv(), bn=norm(), pool=nn.MaxPool2d(2)), 1),
    'what does nothing between': (
        lambda s, x: s.bn(s.drop(s.id(s.conv(x)))), dict(bn=norm(), conv=conv(), id=nn.Identity(), drop=nn.Dropout(0.5)), 0),
    'a convolution in a sequence of its own': (lambda s, x: s.bn(s.stem(x)), dict(stem=nn.Sequential(conv()), bn=norm()), 0),
    'a norm in a sequence of its own': (lambda s, x: s.end(s.conv(x)), dict(conv=conv(), end=nn.Sequential(norm(), nn.ReLU())), 0),
    'a convolution that runs twice': (lambda s, x: s.bn(s.conv(x)) + s.conv(-x), dict(conv=conv(), bn=norm()), 1),
    'a convolution with two norms': (lambda s, x: s.bn1(s.conv(x)) + s.bn2(s.conv(-x)), dict(conv=conv(), bn1=norm(), bn2=norm()), 2),
    'a norm of two convolutions': (lambda s, x: s.bn(s.conv1(x)) + s.bn(s.conv2(x)), dict(conv1=conv(), bn=norm(), conv2=conv()), 1),
    'a norm before two convolutions': (
        lambda s, x: s.conv1(y := s.bn(x)) + s.conv2(y), dict(bn=norm(), conv1=conv(1, 0), conv2=conv(1, 0)), 1),
    'a block that runs twice': (lambda s, x: s.block(s.block(x)), dict(block=nn.Sequential(conv(), norm())), 1),
    'two convolutions with one weight': (lambda s, x: s.bn2(s.conv2(s.bn1(s.conv1(x)))), _tied(), 2),
    'a weight that a function reads, too': (
        lambda s, x: s.bn(s.conv(x)) + F.conv2d(x, s.conv.weight, padding=1), dict(conv=conv(), bn=norm()), 1),
    'statistics that a function reads, too': (lambda s, x: s.bn(s.conv(x)) + _own_norm(s.bn, x), dict(conv=conv(), bn=norm()), 1),
    'a norm called as a function': (lambda s, x: _own_norm(s.bn, s.conv(x)), dict(conv=conv(), bn=norm()), 1),
    'a norm after a norm': (lambda s, x: s.bn2(s.bn1(s.conv(x))), dict(conv=conv(), bn1=norm(), bn2=norm()), 1),
    'norms on both sides': (lambda s, x: s.bn2(s.conv(s.bn1(x))), dict(conv=conv(1, 0), bn1=norm(), bn2=norm()), 0),
    'a norm without weights of its own': (lambda s, x: s.bn(s.conv(x)), dict(conv=conv(bias=False), bn=norm(affine=False)), 0),
    'statistics of the batch': (lambda s, x: s.bn(s.conv(x)), dict(conv=conv(), bn=norm(track_running_stats=False)), 1),
    'a norm that is never reached': (lambda s, x: s.conv(x), dict(conv=conv(), bn=norm()), 1),
    'a norm of many processes': (lambda s, x: s.bn(s.conv(x)), dict(conv=conv(), bn=nn.SyncBatchNorm(C)), 0),
    'a grouped convolution': (lambda s, x: s.bn(s.conv(x)), dict(conv=conv(groups=3), bn=norm()), 0),
    'a transposed convolution': (lambda s, x: s.bn(s.conv(x)), dict(conv=nn.ConvTranspose2d(C, C, 3, 2), bn=norm()), 0),
    'a grouped transposed convolution': (
        lambda s, x: s.bn(s.conv(x)), dict(conv=nn.ConvTranspose2d(C, 4, 3, groups=2, bias=False), bn=nn.BatchNorm2d(4)), 0),
    'one dimension': (lambda s, x: s.bn(s.conv(x.flatten(2))), dict(conv=nn.Conv1d(C, 4, 3), bn=nn.BatchNorm1d(4)), 0),
    'one dimension, transposed': (lambda s, x: s.bn(s.conv(x.flatten(2))), dict(conv=nn.ConvTranspose1d(C, 4, 3), bn=nn.BatchNorm1d(4)), 0),
    'three dimensions': (lambda s, x: s.bn(s.conv(x[:, :, None])), dict(conv=nn.Conv3d(C, 4, (1, 3, 3)), bn=nn.BatchNorm3d(4)), 0),
    'a Linear': (lambda s, x: s.bn(s.fc(x.mean((2, 3)))), dict(fc=nn.Linear(C, 4), bn=nn.BatchNorm1d(4)), 0),
    'before a Linear': (lambda s, x: s.fc(s.bn(x.mean((2, 3)))), dict(fc=nn.Linear(C, 4, bias=False), bn=nn.BatchNorm1d(C)), 0),
    'channels that a Linear does not make': (
        lambda s, x: s.bn(s.fc(x.flatten(2))), dict(fc=nn.Linear(20, C), bn=nn.BatchNorm1d(C)), 1),  # (B, C, C): all fits, and is wrong
    'channels that a Linear does not read': (
        lambda s, x: s.fc(s.bn(x.flatten(2)[..., :C])), dict(fc=nn.Linear(C, C), bn=nn.BatchNorm1d(C)), 1),
    'one sample of a convolution alone': (
        lambda s, x: s.bn(s.conv(x[0].flatten(1))), dict(conv=nn.Conv1d(C, 4, 3), bn=nn.BatchNorm1d(18)), 1),
    'a standardized weight': (lambda s, x: s.bn(s.conv(x)), dict(conv=_Standardized(C, C, 3), bn=norm()), 1),
    'a convolution that does more': (lambda s, x: s.bn(s.conv(x)), dict(conv=_Doubled(C, C, 3), bn=norm()), 1),
    'a norm that does more': (lambda s, x: s.bn(s.conv(x)), dict(conv=conv(), bn=_Shifted(C)), 1),
    'a convolution whose forward was exchanged': (
        lambda s, x: s.bn(s.conv(x)), dict(conv=_patched(conv(), lambda x: x + 1), bn=norm()), 1),
    'a norm whose forward was exchanged': (lambda s, x: s.bn(s.conv(x)), dict(conv=conv(), bn=_patched(norm(), lambda x: x + 1)), 1),
    'a weight norm': (lambda s, x: s.bn(s.conv(x)), dict(conv=parametrizations.weight_norm(conv()), bn=norm()), 0),
    'a spectral norm': (lambda s, x: s.bn(s.conv(x)), dict(conv=parametrizations.spectral_norm(conv()), bn=norm()), 0),
    'an older weight norm': (lambda s, x: s.bn(s.conv(x)), dict(conv=_older_weight_norm(), bn=norm()), 0),
    'an older spectral norm': (lambda s, x: s.bn(s.conv(x)), dict(conv=spectral_norm(conv()), bn=norm()), 0),
    'a pruned weight': (lambda s, x: s.bn(s.conv(x)), dict(conv=prune.random_unstructured(conv(), 'weight', 0.5), bn=norm()), 0),
}  # fmt: skip


def _block(case: str) -> _Block:
    run, layers, _ = CASES[case]
    block = _Block(run, **layers).double().eval()
    with torch.no_grad():
        for module in block.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor in (module.weight, module.bias, module.running_mean):
                    if tensor is not None:
                        tensor.normal_()
                if module.running_var is not None:
                    module.running_var.uniform_(0.5, 2)
    return block


def _num_norms(block: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in block.modules())


@pytest.mark.parametrize('case', CASES)
def test_answers_stay_and_norms_go_where_they_can(case: str) -> None:
    block, images = _block(case), torch.randn(3, C, 4, 5, dtype=torch.float64)
    with torch.no_grad():
        expected = block(images)
    before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    folded = _folded(block)
    torch.testing.assert_close(folded(images), expected, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(block(images), expected)  # a copy may share more than its weights with the original
    assert _num_norms(folded) == CASES[case][2]
    after = block.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], tensor) for name, tensor in before.items())


def _folded(block: nn.Module) -> nn.Module:
    """The block, folded by the same function as a network, whose images have three channels."""
    widen = nn.Conv2d(3, C, 1).double()
    return fold(nn.Sequential(widen, nn.Tanh(), block), (4, 5))[2]


def test_calls_are_told_apart_by_what_runs_in_them() -> None:
    """The same layers, wired in two ways, are folded in two ways."""
    layers = dict(conv1=conv(), bn=norm(), conv2=conv())
    first = _Block(lambda s, x: s.conv2(s.bn(s.conv1(x)).relu()), **layers).double().eval()
    second = _Block(lambda s, x: s.bn(s.conv2(s.conv1(x).relu())), **layers).double().eval()
    places = []
    for block in (first, second):
        with torch.no_grad(), Trace(block) as trace:
            block(torch.randn(2, C, 4, 5, dtype=torch.float64))
        places.append([(place.norm, place.layer, place.is_after) for place in trace.places()])
    assert places == [[('bn', 'conv1', True)], [('bn', 'conv2', True)]]


def test_the_coarsest_type_is_noted() -> None:
    block = _Block(lambda s, x: s.bn(s.conv(x)).float().double(), conv=conv(), bn=norm()).double().eval()
    with torch.no_grad(), Trace(block) as trace:
        block(torch.randn(2, C, 4, 5, dtype=torch.float64))
    assert trace.epsilon == torch.finfo(torch.float32).eps
    assert not any(hooks for module in block.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks))


def test_a_norm_under_two_names_goes_from_both() -> None:
    block = _Block(lambda s, x: s.second(s.conv(x)), conv=conv(), first=norm()).double().eval()
    block.second = block.first
    with torch.no_grad(), Trace(block) as trace:
        block(images := torch.randn(2, C, 4, 5, dtype=torch.float64))
        expected = block(images)
    del trace
    folded = _folded(block)
    torch.testing.assert_close(folded(images), expected)
    assert _num_norms(folded) == 0 and _num_norms(block) == 1


def test_names_of_layers_with_other_outputs() -> None:
    block = _Block(
        lambda s, x: s.last(s.before(s.bn(s.conv(x)).relu())), conv=conv(), bn=norm(), before=norm(), last=conv(padding=0)
    ).double().eval()
    with torch.no_grad(), Trace(block) as trace:
        block(torch.randn(2, C, 4, 5, dtype=torch.float64))
    with torch.no_grad():
        assert fold_batch_norms(block, trace.places()) == {'conv', 'before'}
