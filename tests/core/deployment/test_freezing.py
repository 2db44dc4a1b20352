"""Freezing: verified when it is made, with the layer's name where it fails, and without anybody noticing where it does not."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from core_models import narrow_model, standard_normal
from own_branches import SIZE, own_network
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from dynperceiver import DynPerceiver, build_model
from dynperceiver.analysis import count_exit_costs
from dynperceiver.deployment import TorchEngine, fingerprint_of_network, freeze, freezing
from dynperceiver.deployment.folded_layers import FoldedReader
from dynperceiver.deployment.folding import fold
from dynperceiver.inference import DynamicRunner, EngineError, ExitPolicy, FreezeError, FrozenNetwork
from dynperceiver.layers import SelfAttentionLayer

IMAGES = standard_normal((3, 3, *SIZE))


class DeclaredApart(nn.Module):
    """Layers first, then their norms."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, feature: Tensor) -> Tensor:
        return F.relu(feature + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(feature))))))


class PreActivation(DeclaredApart):
    """Norm, activation, convolution."""

    def forward(self, feature: Tensor) -> Tensor:
        return feature + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(feature))))))


class EndsWithAConvolution(DeclaredApart):
    """What the next stage begins with, and others read, ends in a convolution; the block begins with a norm."""

    def forward(self, feature: Tensor) -> Tensor:
        return self.conv2(F.relu(self.bn2(self.conv1(self.bn1(feature)))))


class BatchStatistics(DeclaredApart):
    """Norms without running statistics."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.bn2 = nn.BatchNorm2d(channels, track_running_stats=False)


class LooksAround(DeclaredApart):
    """Takes the mean of the batch into account."""

    def forward(self, feature: Tensor) -> Tensor:
        return super().forward(feature - feature.mean(0, keepdim=True))


class InFloat32(DeclaredApart):
    """Computes in float32 whatever comes in."""

    def forward(self, feature: Tensor) -> Tensor:
        return super().forward((F.layer_norm(feature.float(), feature.shape[1:]) + feature.float()).to(feature.dtype))


class KnowsFloat32Alone(DeclaredApart):
    """Has weights that are no parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.blur = torch.full((channels, 1, 3, 3), 1 / 9)

    def forward(self, feature: Tensor) -> Tensor:
        return super().forward(F.conv2d(feature, self.blur, padding=1, groups=len(self.blur)))


class Noisy(DeclaredApart):
    """Draws the same random numbers for every sample, in evaluation, too."""

    def forward(self, feature: Tensor) -> Tensor:
        return super().forward(feature + torch.randn(feature.shape[1:], dtype=feature.dtype) * 0.1)


class ReadsItsNorm(DeclaredApart):
    """Looks into a layer that folding exchanges."""

    def forward(self, feature: Tensor) -> Tensor:
        assert self.bn1.num_features == feature.shape[1]
        return super().forward(feature)


def normed(channels: int) -> nn.Module:
    block = PreActivation(channels)
    parametrizations.weight_norm(block.conv1)
    return block


def _expected(network: DynPerceiver, images: Tensor) -> np.ndarray:
    with torch.no_grad():
        return torch.stack(network(images)).double().numpy()


@pytest.mark.parametrize('block', [DeclaredApart, PreActivation, EndsWithAConvolution, normed, InFloat32, KnowsFloat32Alone])
def test_networks_on_branches_of_ones_own(block: Callable[[int], nn.Module]) -> None:
    dtype = torch.float32 if block is KnowsFloat32Alone else torch.float64
    network, images = own_network(block, dtype), IMAGES.to(dtype)
    expected = _expected(network, images)
    tolerance = 1e-9 if dtype == torch.float64 and block is not InFloat32 else 1e-3
    frozen = freeze(network, SIZE)
    np.testing.assert_allclose(_expected(frozen.network, images), expected, rtol=tolerance, atol=tolerance)
    runner = DynamicRunner(network, ExitPolicy((2.0, 2.0, 2.0)))
    np.testing.assert_allclose(runner.full_logits(images), expected, rtol=max(tolerance, 1e-5), atol=max(tolerance, 1e-5))


def test_maps_between_stages_stay_what_they_are() -> None:
    """Nothing within a segment is folded into what another segment reads, even where only that one reads it."""
    network = own_network(EndsWithAConvolution, torch.float64, x2z=False, z2x=False, last_z2x=False)
    folded = freeze(network, SIZE).network
    with torch.no_grad():
        for got, expected in zip(folded.pyramid(IMAGES), network.pyramid(IMAGES), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_what_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    network = narrow_model(dtype=torch.float32).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    frozen = freeze(nn.Sequential(network), (56, 40))
    assert frozen.source is network and frozen.image_size == (56, 40)
    assert frozen.fingerprint == fingerprint_of_network(network)
    assert network.training and all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not frozen.network.training and not any(parameter.requires_grad for parameter in frozen.network.parameters())
    assert {tensor.dtype for tensor in frozen.network.state_dict().values() if tensor.is_floating_point()} == {torch.float32}
    calls: list[tuple[int, ...]] = []
    monkeypatch.setattr(freezing, 'count_exit_costs', lambda *args: calls.append(args[1:]) or count_exit_costs(*args))
    assert frozen.cost_gflops == frozen.cost_gflops == tuple(cost.cost_gmacs for cost in count_exit_costs(network, 56, 40))
    assert calls == [(56, 40)]
    with pytest.raises(AttributeError):
        frozen.fingerprint = ''  # type: ignore[misc]
    weights = frozen.network.feature_branch.stem[0].weight.clone()
    engine = TorchEngine(frozen)
    with torch.no_grad():
        network.feature_branch.stem[0].weight.zero_()
    engine.network.segments[0].register_forward_hook(print)
    TorchEngine(frozen, dtype=torch.float64)
    assert torch.equal(frozen.network.feature_branch.stem[0].weight, weights) and not frozen.network.segments[0]._forward_hooks
    assert engine.network.feature_branch.stem[0].weight is frozen.network.feature_branch.stem[0].weight, 'memory for one'


@pytest.mark.parametrize('folded', [True, False])
def test_random_numbers_of_the_program_go_on(folded: bool) -> None:
    for draw in (torch.randn, np.random.rand, lambda _: random.random()):
        torch.manual_seed(5), np.random.seed(5), random.seed(5)
        network = own_network(Noisy)
        expected = draw(3)
        torch.manual_seed(5), np.random.seed(5), random.seed(5)
        network = own_network(Noisy)
        freeze(network, SIZE, folded=folded)
        assert np.array_equal(draw(3), expected)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_type_is_folded_in_float64(dtype: torch.dtype) -> None:
    """The weights are rounded once, at the end."""
    network = narrow_model(dtype=dtype)
    frozen = freeze(network, (56, 56))
    exact = fold(narrow_model(dtype=dtype).double(), (56, 56))
    for name, tensor in exact.state_dict().items():
        assert torch.equal(frozen.network.state_dict()[name], tensor.to(dtype) if tensor.is_floating_point() else tensor), name


def test_contexts_of_the_caller_do_not_matter() -> None:
    network = narrow_model(dtype=torch.float32)
    expected = freeze(network, (40, 40)).network.state_dict()
    for context in (torch.inference_mode(), torch.no_grad(), torch.autocast('cpu', torch.bfloat16), torch.device('meta')):
        with context:
            frozen = freeze(network, (40, 40))
        assert all(torch.equal(tensor, expected[name]) for name, tensor in frozen.network.state_dict().items())
        frozen.network(torch.randn(1, 3, 40, 40))


def _refused(network: nn.Module, **settings: Any) -> str:
    with pytest.raises(FreezeError) as caught:
        freeze(network, **{'image_size': SIZE, **settings})
    assert isinstance(caught.value, EngineError)
    return str(caught.value)


def test_a_wrong_fold_is_refused_and_the_layer_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong in folding: the first layer whose output differs is named, not those that pass it on."""
    network = narrow_model()

    def broken(change: Callable[[DynPerceiver], None]) -> str:
        def fold_wrongly(*args: Any) -> Any:
            folded, changed = fold_places(*args)
            change(folded)
            return folded, changed

        monkeypatch.setattr(freezing, 'fold_places', fold_wrongly)
        return _refused(network)

    fold_places = freezing.fold_places

    def raise_weight(name: str, factor: float = 1.001) -> Callable[[DynPerceiver], None]:
        return lambda folded: folded.get_parameter(name).mul_(factor)

    message = broken(raise_weight('feature_branch.stages.1.0.conv2.weight'))
    assert 'logits of exit 1 differ by' in message and 'rounding explains 1e-08' in message and 'with folded=False, and report' in message
    assert 'part at feature_branch.stages.1.0.bn2 (Identity)' in message, "the convolution does the norm's work, and differs in any case"
    message = broken(raise_weight('latent_branch.x2z.2.cross_attn.kv_proj.weight'))
    assert 'exit 1' in message and 'part at latent_branch.x2z.2.cross_attn.mlp.layernorm (LayerNorm)' in message
    message = broken(raise_weight('latent_branch.last_z2x.cross_attn.mlp.fc1.weight'))
    assert 'exit 4' in message and 'part at latent_branch.last_z2x.cross_attn.mlp.fc1 (Linear)' in message
    message = broken(raise_weight('exits.3.classifier.1.bias'))
    assert 'exit 4' in message and 'part at exits.3.classifier.1 (Linear)' in message
    message = broken(lambda folded: folded.latent_branch.blocks[1].append(nn.Linear(1, 1)))
    assert 'the folded network cannot run, and the network itself can (RuntimeError: ' in message and 'folded=False' in message


def test_layers_that_are_not_ours_are_left_alone() -> None:
    class Stronger(SelfAttentionLayer):
        def forward(self, tokens_BNC: Tensor) -> Tensor:
            return super().forward(tokens_BNC) * 2

    class LowRank(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + input.mean(-1, keepdim=True)

    network = narrow_model()
    for layer in network.latent_branch.blocks[0]:
        layer.__class__ = Stronger
    network.latent_branch.x2z[0].cross_attn.attention.k_proj.__class__ = LowRank
    network.latent_branch.blocks[2][0].mlp.fc2.__class__ = LowRank
    network.latent_branch.x2z[2].dwc.padding_mode = 'reflect'
    network.latent_branch.x2z[1].summarize = lambda feature: F.adaptive_max_pool2d(feature, 7)
    frozen = freeze(network, (112, 112))
    images = standard_normal((2, 3, 112, 112))
    np.testing.assert_allclose(_expected(frozen.network, images), _expected(network, images), rtol=1e-9, atol=1e-9)
    assert isinstance(frozen.network.latent_branch.x2z[2], FoldedReader) and frozen.network.latent_branch.x2z[2].conv is None


def test_layers_that_folding_cannot_know() -> None:
    message = _refused(own_network(ReadsItsNorm))
    assert "cannot run, and the network itself can (AttributeError: 'Identity' object has no attribute 'num_features')" in message
    assert isinstance(freeze(own_network(ReadsItsNorm), SIZE, folded=False), FrozenNetwork)


@pytest.mark.parametrize('folded', [True, False])
@pytest.mark.parametrize(
    ('block', 'layer'),
    [(BatchStatistics, 'feature_branch.stages.0.2.bn2 (BatchNorm2d)'), (LooksAround, 'feature_branch.stages.0.2')],
)
def test_layers_that_mix_samples_are_refused(block: Callable[[int], nn.Module], layer: str, folded: bool) -> None:
    message = _refused(own_network(block), folded=folded)
    assert "a sample's logits change by" in message and f'the first layer that mixes samples is {layer}' in message
    assert 'track_running_stats=True' in message


def test_weights_that_are_not_finite_are_named() -> None:
    network = narrow_model(dtype=torch.float32)
    with torch.no_grad():
        network.exits[2].classifier.bias[3] = torch.nan
    message = _refused(network, folded=False)
    assert 'exit 3 gives logits that are not finite on random images' in message and 'load a checkpoint' in message
    assert 'is exits.2.classifier (Linear), because of the weights exits.2.classifier.bias (1 of 5 not finite); load' in message
    network = narrow_model(dtype=torch.float32)
    with torch.no_grad():
        network.latent_branch.latent[0] = torch.inf
    assert 'q_norm (LayerNorm), because of the weights latent_branch.latent (8 of 128 not finite)' in _refused(network)
    with torch.no_grad():
        network.latent_branch.latent.zero_()
        network.feature_branch.stages[0][0].bn1.running_mean[:2] = torch.nan
    assert 'bn1 (BatchNorm2d), because of the weights feature_branch.stages.0.0.bn1.running_mean (2 of 8 not finite)' in _refused(network)
    network = narrow_model(dtype=torch.float32)
    network.register_buffer('mask', torch.full((3,), -torch.inf))  # reaches no logits
    freeze(network, (40, 40))
    with torch.no_grad():
        network.double().feature_branch.stages[1][0].conv1.weight.fill_(1e300)
        network.feature_branch.stages[1][0].conv2.weight.fill_(1e300)
    message = _refused(network)
    assert 'is feature_branch.stages.1.0.conv2 (Conv2d), whose weights are finite; check how large they are' in message


def test_what_cannot_be_frozen_is_said() -> None:
    for size in ((64,), (64, 64, 64), (0, 64), (64.0, 64), (True, 64), 64, '64'):
        assert f'image_size={size!r}: pass height and width in pixels, two whole numbers of 1 or more' in _refused(
            narrow_model(), image_size=size
        )
    message = _refused(narrow_model(num_frames=2, temporal_shift='bidirectional').to('meta'))
    assert "on the device 'meta', where weights have no values; load its weights first" in message
    network = narrow_model()
    network.feature_branch.stem[0] = nn.Conv2d(4, 8, 7)
    message = _refused(network)
    assert 'cannot run on images of 40x48 pixels (height x width): RuntimeError: ' in message and 'network.eval()(images)' in message
    with pytest.raises(EngineError, match='without exits'):
        freeze(build_model('resnet18', width=0.125, num_latents=8, depth_factors=(1, 1, 1, 1), num_classes=None))
    with pytest.raises(EngineError, match='Linear holds no DynPerceiver'):
        freeze(nn.Linear(1, 1))
