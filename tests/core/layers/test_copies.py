"""Copies without hooks: nothing that others put on a network stands in the way of counting, freezing or exporting it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.modules.module as of_all_modules
from core_models import narrow_model, standard_normal
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm
from torch.utils.hooks import RemovableHandle

from dynperceiver.analysis import count_exit_costs, count_gmacs, meta_copy
from dynperceiver.deployment import TorchEngine, freeze
from dynperceiver.hooks import TimedRunner
from dynperceiver.inference import DynamicRunner, ExitPolicy
from dynperceiver.layers import copy_without_hooks, share_hooks, without_global_hooks
from dynperceiver.layers.copies import HOOKS

REGISTERING: dict[str, Callable[[nn.Module, Any], RemovableHandle]] = {
    'forward': lambda module, hook: module.register_forward_hook(hook),
    'forward with keywords': lambda module, hook: module.register_forward_hook(hook, with_kwargs=True),
    'forward, always called': lambda module, hook: module.register_forward_hook(hook, always_call=True),
    'before forward': lambda module, hook: module.register_forward_pre_hook(hook),
    'before forward with keywords': lambda module, hook: module.register_forward_pre_hook(hook, with_kwargs=True),
    'backward': lambda module, hook: module.register_full_backward_hook(hook),
    'before backward': lambda module, hook: module.register_full_backward_pre_hook(hook),
    'state dict': lambda module, hook: module.register_state_dict_post_hook(hook),
    'before state dict': lambda module, hook: module.register_state_dict_pre_hook(hook),
    'before loading': lambda module, hook: module.register_load_state_dict_pre_hook(hook),
    'after loading': lambda module, hook: module.register_load_state_dict_post_hook(hook),
}
FOR_ALL_MODULES: dict[str, Callable[[Any], RemovableHandle]] = {
    'forward': of_all_modules.register_module_forward_hook,
    'before forward': of_all_modules.register_module_forward_pre_hook,
    'backward': of_all_modules.register_module_full_backward_hook,
    'buffers': of_all_modules.register_module_buffer_registration_hook,
    'modules': of_all_modules.register_module_module_registration_hook,
    'parameters': of_all_modules.register_module_parameter_registration_hook,
}


class Watching:
    """A hook that cannot be copied, as profilers are not, and that needs numbers."""

    def __init__(self) -> None:
        self.lock, self.generator = threading.Lock(), (number for number in range(10**6))
        self.seen: list[str] = []

    def __call__(self, module: nn.Module, *args: Any) -> None:
        with self.lock:
            next(self.generator)
            self.seen.append(type(module).__name__)

    def __deepcopy__(self, memo: Any) -> Any:
        raise AssertionError('a hook was copied')


def _watched(*kinds: str) -> tuple[Any, dict[str, Watching]]:
    network, hooks = narrow_model(dtype=torch.float32), {kind: Watching() for kind in kinds}
    for module in (network, *network.segments, network.feature_branch.stem[0], network.exits[3].classifier[0]):
        for kind, hook in hooks.items():
            REGISTERING[kind](module, hook)
    return network, hooks


def test_hooks_of_every_kind_stay_with_the_original() -> None:
    network, hooks = _watched(*REGISTERING)
    before = [{name: dict(getattr(module, name)) for name in HOOKS} for module in network.modules()]
    copied = copy_without_hooks(network)
    assert not [name for module in copied.modules() for name in HOOKS if getattr(module, name)]
    assert before == [{name: dict(getattr(module, name)) for name in HOOKS} for module in network.modules()]
    assert count_exit_costs(network, 40, 40) == count_exit_costs(narrow_model(dtype=torch.float32), 40, 40)
    TorchEngine(freeze(network, (40, 40)), dtype=torch.float64)
    freeze(network, (40, 40), folded=False)
    called = {kind for kind, hook in hooks.items() if hook.seen}
    assert called == {'state dict', 'before state dict'}, 'for the fingerprint; the others by something that is no batch'


@pytest.mark.parametrize('kind', ['forward', 'before forward with keywords'])
def test_hooks_see_what_is_run_and_nothing_else(kind: str) -> None:
    network, hooks = _watched(kind)
    runner = TimedRunner(network, ExitPolicy((0.0, 0.0, 0.0)))
    runner(standard_normal((1, 3, 40, 40)).float())  # warmed up once, and then timed
    first = ['Conv2d', 'Segment'] if kind == 'forward' else ['Segment', 'Conv2d']
    others = ['Segment', 'Segment', *(['Identity', 'Segment'] if kind == 'forward' else ['Segment', 'Identity'])]
    assert hooks[kind].seen == [*first, *others, *first]
    assert len(runner.cost_gflops) == 4


def test_hooks_for_all_modules_are_quiet() -> None:
    network = narrow_model(dtype=torch.float32)
    frozen, expected = freeze(network, (40, 40)), count_exit_costs(network, 40, 40)
    hooks = {kind: Watching() for kind in FOR_ALL_MODULES}

    def train() -> None:
        nn.Sequential(nn.BatchNorm1d(3))(torch.ones(4, 3, requires_grad=True)).sum().backward()

    with ExitStack() as stack:
        for kind, register in FOR_ALL_MODULES.items():
            stack.callback(register(hooks[kind]).remove)
        with without_global_hooks():
            train()
        assert count_exit_costs(network, 40, 40) == expected
        freeze(network, (40, 40))
        assert not {kind for kind, hook in hooks.items() if hook.seen}
        engine = TorchEngine(frozen)
        engine.run(0, engine.start(torch.zeros(1, 3, 40, 40)))
        assert 'Segment' in hooks['forward'].seen and 'Segment' in hooks['before forward'].seen
        train()
        assert all(hook.seen for hook in hooks.values())


def test_other_threads_keep_their_hooks() -> None:
    hook, layer = Watching(), nn.ReLU()
    handle = of_all_modules.register_module_forward_hook(hook)
    try:
        inner, outer, done = threading.Event(), threading.Event(), []

        def elsewhere() -> None:
            with without_global_hooks():
                layer(torch.ones(1))
                inner.set()
                outer.wait(20)
                layer(torch.ones(1))
            layer(torch.ones(1))
            done.append(len(hook.seen))

        thread = threading.Thread(target=elsewhere)
        with ExitStack() as stack:
            stack.enter_context(without_global_hooks())
            thread.start()
            assert inner.wait(20)
            layer(torch.ones(1))
            stack.enter_context(without_global_hooks())
            stack.pop_all().close()  # before the other thread's
        assert not hook.seen
        layer(torch.ones(1))
        assert len(hook.seen) == 1
        outer.set()
        thread.join()
        assert done == [2]
        assert list(of_all_modules._global_forward_hooks.values()) == [hook]
    finally:
        handle.remove()


class _Holder(nn.Module):
    """Attributes that cannot be copied, beside some that must be."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.lock, self.file = threading.Lock(), path.open('w')
        self.numbers = (number for number in range(3))
        self.kept = {'lock': threading.RLock(), 'weight': self.layer.weight, 'list': [1, threading.Event()], 'tensor': torch.zeros(2)}
        self.me, self.calls = [self], []
        self.activation: Tensor | None = None
        self.handle = self.layer.register_forward_hook(lambda *args, lock=self.lock: None)

    def forward(self, input: Tensor) -> Tensor:
        with self.lock, self.kept['lock']:
            self.calls.append(1)
            self.activation = self.layer(input)
        return self.activation


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[_Holder]:
    holder = _Holder(tmp_path / 'log.txt')
    yield holder
    holder.file.close()


def test_what_cannot_be_copied_is_shared(holder: _Holder) -> None:
    holder(torch.ones(1, 2))  # its activation has a history, which deepcopy refuses
    with pytest.raises(TypeError):
        copy.deepcopy(holder)
    copied = copy_without_hooks(holder)
    assert copied.lock is holder.lock and copied.file is holder.file and copied.numbers is holder.numbers
    assert copied.kept is not holder.kept and copied.kept['lock'] is holder.kept['lock'] and copied.kept['list'] is not holder.kept['list']
    assert copied.kept['weight'] is copied.layer.weight is not holder.layer.weight
    assert copied.kept['tensor'] is not holder.kept['tensor'] and copied.me == [copied]
    assert torch.equal(copied.activation, holder.activation) and not copied.activation.requires_grad
    torch.testing.assert_close(copied(torch.ones(1, 2)), holder(torch.ones(1, 2)))
    assert (copied.calls, holder.calls) == ([1, 1], [1, 1])
    assert 1e9 * count_gmacs(meta_copy(holder), torch.empty(5, 2, device='meta')) == 20
    assert holder.layer._forward_hooks


def test_networks_with_such_attributes_are_frozen_and_counted(holder: _Holder) -> None:
    network = narrow_model(dtype=torch.float32)
    network.feature_branch.stages[0][0].holder = holder
    network.latent_branch.log = holder.file
    images = standard_normal((2, 3, 40, 40)).float()
    with torch.no_grad():
        expected = network(images)[3]
    assert len(count_exit_costs(network, 40, 40)) == 4
    torch.testing.assert_close(DynamicRunner(network)(images).logits, expected, rtol=1e-4, atol=1e-5)


def test_segments_of_a_copy_are_those_of_the_copy() -> None:
    network = narrow_model(dtype=torch.float32)
    network.lock = threading.Lock()
    copied = copy_without_hooks(network)
    assert all(segment.__dict__['network'] is copied for segment in copied.segments)


def test_given_tensors_take_the_places_of_the_originals() -> None:
    tied = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    tied[2].weight = tied[0].weight
    same = copy_without_hooks(tied, lambda tensor: tensor)
    pairs = zip(same.state_dict(keep_vars=True).values(), tied.state_dict(keep_vars=True).values(), strict=True)
    assert all(one is other for one, other in pairs) and same[0] is not tied[0]
    shapes = meta_copy(tied)
    assert shapes[2].weight is shapes[0].weight and shapes[0].weight.is_meta and shapes[1].running_mean.is_meta
    assert tied[0].weight.requires_grad and not tied[0].weight.is_meta


def test_weights_that_hooks_make_are_made_in_copies_too() -> None:
    pruned, turning = prune.l1_unstructured(nn.Linear(4, 4), 'weight', 0.5), parametrizations.orthogonal(nn.Linear(4, 4))
    layers = nn.Sequential(spectral_norm(nn.Linear(4, 4)), pruned, turning)
    watcher = Watching()
    layers[0].register_forward_pre_hook(watcher)
    inputs = torch.randn(2, 4)
    layers(inputs)
    watcher.seen.clear()
    layers.eval()
    copied = copy_without_hooks(layers)
    torch.testing.assert_close(copied(inputs), layers(inputs))
    assert watcher.seen == ['Linear']
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(2)
        assert not torch.allclose(copied(inputs), layers(inputs)), 'its weights are its own'
    share_hooks(copied, layers)
    watcher.seen.clear()
    copied(inputs)
    assert watcher.seen == ['Linear']
