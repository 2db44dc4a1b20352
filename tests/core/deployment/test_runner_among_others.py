"""The runner in other people's programs: threads, hooks, autocast, buffers, weights of any type."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from core_models import narrow_model
from dynamic_runs import assert_replayed, full_logits, make_images, spread_policy
from torch import nn

from dynperceiver import DynPerceiver
from dynperceiver.deployment.fingerprints import fingerprint_of_network
from dynperceiver.inference import DynamicRunner, ExitPolicy, FrozenNetwork, PolicyRecord, freeze, gather


@pytest.fixture(scope='module')
def model() -> DynPerceiver:
    return narrow_model()


def test_a_stream_keeps_images_that_wait(model: DynPerceiver) -> None:
    """Cameras fill one buffer again and again."""
    images = make_images(8).contiguous(memory_format=torch.channels_last)
    logits = full_logits(model, images)
    buffer = torch.empty_like(images[:2])

    def batches() -> Iterator[torch.Tensor]:
        for start in range(0, 8, 2):
            yield buffer.copy_(images[start : start + 2])

    policy = spread_policy(logits)
    assert_replayed(gather(DynamicRunner(model, policy).stream(batches(), batch_size=8)), policy, logits)
    assert_replayed(gather(DynamicRunner(model, policy).stream(batches(), batch_size=3)), policy, logits)


def test_the_callers_autocast_does_not_matter(model: DynPerceiver) -> None:
    model = narrow_model(dtype=torch.float32)
    images = make_images(2).float()
    expected = DynamicRunner(model)(images).logits
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(DynamicRunner(model)(images).logits, expected)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_weights_of_other_types_have_fingerprints_of_their_own(dtype: torch.dtype) -> None:
    model = narrow_model(dtype=torch.float32)
    policy = ExitPolicy((0.5, 0.5, 0.5), record=PolicyRecord(checkpoint=fingerprint_of_network(model)))
    assert DynamicRunner(model, policy, dtype=dtype)(make_images(1)).logits.shape == (1, 5)
    with pytest.raises(ValueError, match=rf'The weights are {dtype}: if they were converted, pass .* dtype={dtype} to the runner'):
        DynamicRunner(model.to(dtype), policy)


def test_weights_that_change_before_they_are_read() -> None:
    model = narrow_model()
    policy = ExitPolicy((0.5, 0.5, 0.5), record=PolicyRecord(checkpoint=fingerprint_of_network(model)))
    runner = DynamicRunner(model, policy)
    with torch.no_grad():
        model.exits[0].classifier.bias += 1
    with pytest.raises(ValueError, match='sha256'):
        runner(make_images(1))


class _Unpicklable:
    """A hook as profilers are: with state that cannot be copied."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.places: list[str] = []

    def __call__(self, module: nn.Module, *_: Any) -> None:
        with self.lock:
            self.places.append(type(module).__name__)


@pytest.mark.parametrize('before', [True, False])
def test_hooks_of_any_kind_see_the_run(before: bool) -> None:
    model = narrow_model()
    hook = _Unpicklable()
    runner = DynamicRunner(model, ExitPolicy((0.0, 0.0, 0.0)))
    if not before:
        runner(make_images(1))
    handles = [module.register_forward_hook(hook) for module in (model.segments[0], model.feature_branch.stages[0], model.segments[1])]
    runner(make_images(1))
    assert hook.places == ['BlockSequence', 'Segment']
    for handle in handles:
        handle.remove()
    runner(make_images(1))
    assert hook.places == ['BlockSequence', 'Segment']


def test_the_callers_model_is_left_alone() -> None:
    model = narrow_model().train()
    for folded in (True, False):
        DynamicRunner(model, folded=folded, dtype=torch.float32)(make_images(1))
        assert model.training and model.latent_branch.latent.dtype == torch.float64


def test_first_calls_from_several_threads(model: DynPerceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[int] = []

    def slow_freeze(*args: Any, **settings: Any) -> FrozenNetwork:
        frozen.append(1)
        time.sleep(0.05)
        return freeze(*args, **settings)

    monkeypatch.setattr('dynperceiver.deployment.runner.freeze', slow_freeze)
    images = make_images(3)
    runner = DynamicRunner(model)
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(runner, [images] * 3))
    assert len(frozen) == 1
    for result in results:
        np.testing.assert_allclose(result.logits.numpy(), full_logits(model, images)[3], rtol=1e-5, atol=1e-5)


def test_arrays_of_any_layout(model: DynPerceiver) -> None:
    images = make_images(2)
    flipped = images.numpy()[:, ::-1]
    expected = full_logits(model, images.flip(1))[3]
    np.testing.assert_allclose(DynamicRunner(model)(flipped).logits.numpy(), expected, rtol=1e-5, atol=1e-5)
    for max_exit in (1.0, '1'):
        with pytest.raises(ValueError, match=f'max_exit={max_exit}: pass the index of an exit'):
            DynamicRunner(model)(images, max_exit=max_exit)
