"""Networks of other makes are cut where one tensor crosses, and answer as before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dynamic_runs import assert_replayed, full_logits, spread_policy
from foreign_networks import (
    BasicBlock,
    Bottleneck,
    ResNet,
    VisionTransformer,
    check_image_exits,
    check_parts,
    lean_on,
    resnet,
    unsettled,
    vision_transformer,
)
from torch import Tensor, nn

from dynperceiver import build_model
from dynperceiver.deployment import freeze
from dynperceiver.deployment.export import export
from dynperceiver.grafting import GraftError, build_cut_network, cut_network, find_cuts, network_from_function
from dynperceiver.inference import DynamicRunner

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int], list[str]]] = {
    'resnet': (lambda: unsettled(ResNet(BasicBlock, (2, 1, 1, 1))), (64, 64), ['layer1', 'layer2', 'layer3']),
    'resnet within a layer': (lambda: unsettled(ResNet(BasicBlock, (2, 2, 1, 1))), (64, 96), ['layer1.0', 'layer2.0']),
    'bottlenecks': (lambda: unsettled(ResNet(Bottleneck, (1, 2, 1, 1))), (75, 104), ['layer2', 'layer3']),
    'transformer': (lambda: VisionTransformer().eval(), (64, 64), ['blocks.0', 'blocks.2']),
}


@pytest.mark.parametrize('kind', NETWORKS)
def test_exits_on_networks_of_any_make(kind: str) -> None:
    make, size, cuts = NETWORKS[kind]
    network, example = make(), torch.randn(2, 3, *size)
    names = [cut.name for cut in find_cuts(network, example)]
    assert set(cuts) <= set(names)
    assert len(names) == len(set(names))
    branch = check_parts(network, example, cuts[::-1])
    assert branch.cuts == tuple(cuts), 'in the order of the network, whatever order they are given in'
    check_image_exits(network, branch, example)


def test_what_is_known_of_cuts() -> None:
    network = ResNet(num_classes=5).eval()
    cuts = {cut.name: cut for cut in find_cuts(network, torch.randn(2, 3, 64, 64))}
    assert cuts['layer1'].shape == (8, 16, 16)
    assert cuts['layer3'].shape == (32, 4, 4)
    assert cuts['layer1'].position < cuts['layer2'].position
    assert 'fc' not in cuts
    assert 'layer2.0.conv1' not in cuts, 'the shortcut crosses there'
    branch = cut_network(network, torch.randn(2, 3, 64, 64), ['layer1', 'layer3'])
    assert (branch.channels, branch.strides[:2]) == ((8, 32, 5), (4, 16))
    tokens = cut_network(VisionTransformer().eval(), torch.randn(2, 3, 64, 64), ['blocks.1'])
    assert (tokens.layouts[0].axes, tokens.channels, tokens.strides) == ('BMC', (16, 7), (16, 16))


def test_a_fully_convolutional_network_takes_other_sizes() -> None:
    network = resnet()
    branch = cut_network(network, torch.randn(2, 3, 64, 64), ['layer2', 'layer3'])
    dynamic, images = lean_on(branch), torch.randn(2, 3, 97, 150)
    with torch.no_grad():
        assert torch.equal(dynamic(images)[-1], network(images))


def test_served_in_graphs(tmp_path: Path) -> None:
    make, size, cuts = NETWORKS['transformer']
    network, example = make(), torch.randn(2, 3, *size)
    dynamic = lean_on(cut_network(network, example, cuts[-2:]))
    export(freeze(dynamic, size), tmp_path / 'served')
    images = np.random.default_rng(0).standard_normal((8, 3, *size), dtype=np.float32)
    logits = full_logits(dynamic, torch.from_numpy(images))
    policy = spread_policy(logits, between=True)
    for count in (8, 3, 1):
        result = DynamicRunner(tmp_path / 'served', policy, backend='onnxruntime')(images[:count])
        assert_replayed(result, policy, logits[:, :count], tolerance=1e-3)


def test_weights_stay_those_of_the_network() -> None:
    network = resnet()
    dynamic = lean_on(cut_network(network, torch.randn(2, 3, 64, 64), ['layer2']), frozen_trunk=True)
    own = {id(parameter) for parameter in network.parameters()}
    assert own == {id(parameter) for parameter in dynamic.feature_branch.parameters()}
    dynamic.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    loss = sum(one.square().sum() for one in dynamic(torch.randn(4, 3, 64, 64))[:-1])
    assert isinstance(loss, Tensor)
    loss.backward()
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(p.grad is not None for name, p in dynamic.named_parameters() if name.startswith(('latent_branch.', 'exits.')))


def test_from_a_function(tmp_path: Path) -> None:
    network = network_from_function('foreign_networks:resnet', num_classes=7)
    torch.save({'model': {f'module.{key}': value for key, value in network.state_dict().items()}}, tmp_path / 'weights.pth')
    config = dict(
        type='CutNetwork',
        network=dict(type='NetworkFromFunction', function='foreign_networks:resnet', weights=str(tmp_path / 'weights.pth')),
        cuts=['layer2', 'layer3'],
        image_size=64,
    )
    dynamic = lean_on(config)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(dynamic(images)[-1], network(images))
    state = dynamic.state_dict()
    again = lean_on({**config, 'network': dict(type='NetworkFromFunction', function='foreign_networks:resnet')})
    again.load_state_dict(state)
    with torch.no_grad():
        for one, same in zip(again(images), dynamic(images), strict=True):
            assert torch.equal(one, same)


@pytest.mark.parametrize(
    ('function', 'message'),
    [
        ('no_such_package.x:make', 'no_such_package.x:make: there is no such function .*PYTHONPATH'),
        ('foreign_networks:no_such', 'foreign_networks:no_such: there is no such function'),
        ('foreign_networks', 'foreign_networks: there is no such function'),
        ('math:sqrt', 'math:sqrt gave a float, but a torch.nn.Module is expected'),
    ],
)
def test_functions_that_make_nothing(function: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import math

    monkeypatch.setattr(math, 'sqrt', lambda: 1.0)
    with pytest.raises(ValueError, match=message) as caught:
        network_from_function(function)
    assert '\n' not in str(caught.value)


def test_weights_of_another_network(tmp_path: Path) -> None:
    torch.save(vision_transformer().state_dict(), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'other\.pth does not fit the network of foreign_networks:resnet: .*conv1\.weight') as caught:
        network_from_function('foreign_networks:resnet', weights=str(tmp_path / 'other.pth'))
    assert '\n' not in str(caught.value)


class _TwoAnswers(ResNet):
    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return logits, logits + 1


class _Maps(ResNet):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))


class _Undecided(nn.Module):
    """Its way depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fc = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 7)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if y.sum() > 0:
            y = y * 2
        return self.fc(y.mean((2, 3)))


class _Overwriting(nn.Module):
    """What follows its first layer writes into a view of what that gave."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fc = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 7)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).flatten(2)
        y.add_(1)
        return self.fc(y.mean(2))


class _TwoFrames(nn.Module):
    """Reads a size that happens to be the number of samples, and uses it behind the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.Conv2d(3, 2, 3, 2), nn.Conv2d(2, 8, 1), nn.Linear(8, 7)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        two = y.size(1)
        return self.fc(self.second(y).mean((2, 3)) * two)


class _Failing(nn.Module):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError(self.text)


REFUSED: list[tuple[Callable[[], nn.Module], list[str], str]] = [
    (ResNet, ['layer2.0.conv1'], r"cut 'layer2\.0\.conv1': 2 tensors cross it: besides its own output that of layer1.*, read behind it; "),
    (ResNet, ['layer5'], r"cut 'layer5': the network has no such module that runs; cuts that can be made are .*layer[1-4]"),
    (ResNet, ['layer1.'], r"cut 'layer1\.': the network has no such module that runs; .*layer1"),
    (ResNet, ['bn1'], r"cut 'bn1': its output is overwritten by what follows"),
    (ResNet, ['fc'], r"cut 'fc': "),
    (ResNet, [], r'no cut was given; choose among .*layer1, .*layer2'),
    (_TwoAnswers, ['layer1'], 'the network returns tuple of 2 parts, but logits alone, one tensor .* wrap it'),
    (_Maps, ['maxpool'], r'the network returns \(8, 16, 16\) numbers per sample, but logits, one per class, are expected'),
    (_Overwriting, ['first'], r"cut 'first': what follows it writes into its tensor; cut after the module that does"),
    (_TwoFrames, ['second'], 'the parts of the network give other logits than the network; it cannot be cut there'),
    (_Undecided, ['first'], 'the network cannot be traced: .*without control flow on values'),
]


@pytest.mark.parametrize(('make', 'cuts', 'message'), REFUSED, ids=lambda value: str(value)[:30])
def test_refused(make: Callable[[], nn.Module], cuts: list[str], message: str) -> None:
    with pytest.raises(GraftError, match=message) as caught:
        cut_network(make().eval(), torch.randn(2, 3, 64, 64), cuts)
    assert '\n' not in str(caught.value)


def test_a_size_that_it_cannot_take() -> None:
    message = r'the network cannot run on an input of shape \(2, 3, 80, 80\) \(RuntimeError: .*pass the size'
    with pytest.raises(GraftError, match=message) as caught:
        build_cut_network(VisionTransformer(), ['blocks.0'], 80)
    assert '\n' not in str(caught.value)
    for text, said in (('first\nsecond', 'RuntimeError: first'), ('', 'RuntimeError: no more is known')):
        with pytest.raises(GraftError, match=rf'\({said}\); pass the size that it takes'):
            build_cut_network(_Failing(text), ['first'], 64)
    dynamic = lean_on(build_cut_network(VisionTransformer(), ['blocks.0'], 64))
    with pytest.raises(ValueError, match=r'input of shape \(3, 64, 64\)'):
        dynamic(torch.randn(3, 64, 64))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'num_classes': 5}, 'num_classes=5, but the network that was cut gives 7 logits'),
        ({'num_classes': None}, 'num_classes=None, but the network that was cut gives 7 logits'),
        ({'latent_width': None, 'frozen_trunk': False}, 'takes the lean form alone; pass latent_width'),
        ({'z2x': True, 'frozen_trunk': False}, 'z2x=True with a network that was cut'),
        ({'dwc': True}, 'dwc=True with a network that was cut'),
        ({'merged_exit': True}, 'last_z2x|merged_exit=True with a network that was cut'),
        ({'early_exits': 'feature'}, "early_exits='feature' with a network that was cut"),
        ({'depth_factors': (1, 1, 1, 1)}, r'depth_factors=\(1, 1, 1, 1\) with 2 stages: leave it out'),
        ({'num_latents': 0}, 'num_latents=0: a code has at least one token'),
        ({'num_frames': 0}, 'num_frames=0: a clip has at least one frame'),
        ({'read_maps': (2,)}, r'read_maps=\(2,\): pass numbers i of maps x_i, rising, from 0 \(the stem\'s\) to 1'),
    ],
    ids=str,
)
def test_arguments_that_it_cannot_take(changes: dict[str, Any], message: str) -> None:
    branch = cut_network(resnet(), torch.randn(2, 3, 64, 64), ['layer1', 'layer2'])
    arguments: dict[str, Any] = dict(num_latents=4, latent_width=32, num_classes=7, frozen_trunk=True)
    with pytest.raises(ValueError, match=message):
        build_model(branch, **{**arguments, **changes})


def test_probes_need_no_code() -> None:
    network = resnet()
    branch = cut_network(network, torch.randn(2, 3, 64, 64), ['layer1', 'layer2'])
    images = torch.randn(2, 3, 64, 64)
    dynamic = lean_on(branch, early_exits='probe', probe_channels=9)
    with torch.no_grad():
        assert torch.equal(dynamic(images)[-1], network(images))
