"""The runner stops: for each sample on its own, with the answers that replaying the full network gives."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from core_models import narrow_model, standard_normal
from dynamic_runs import SIZE, assert_replayed, full_logits, make_images, spread_policy
from torch import nn

from dynperceiver import DynPerceiver, build_model
from dynperceiver.deployment import torch_engine
from dynperceiver.deployment.fingerprints import fingerprint_of_network
from dynperceiver.feature_branches import FEATURE_BRANCHES
from dynperceiver.inference import DynamicRunner, EngineError, ExitPolicy, PolicyRecord, TorchEngine, freeze, gather
from dynperceiver_runtime import DynamicRunner as EngineRunner


@pytest.fixture(scope='module')
def model() -> DynPerceiver:
    return narrow_model()


@pytest.fixture
def calls(model: DynPerceiver) -> Iterator[list[tuple[int, int]]]:
    """Number and batch size of every segment that runs."""
    seen: list[tuple[int, int]] = []

    def note(module: Any, args: tuple[Any, ...], output: tuple[Any, Any]) -> None:
        seen.append((module.number, output[1].num_samples))

    handles = [segment.register_forward_hook(note) for segment in model.segments]
    yield seen
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize('name', FEATURE_BRANCHES)
def test_every_family_answers_as_replayed(name: str) -> None:
    model = narrow_model(name, dtype=torch.float32)
    images = make_images(12).float()
    logits = full_logits(model, images)
    policy = spread_policy(logits)
    result = DynamicRunner(model, policy)(images)
    assert len(set(result.exit_index.tolist())) == 4
    assert_replayed(result, policy, logits)


@pytest.mark.parametrize('score', ['confidence', 'margin', 'entropy'])
@pytest.mark.parametrize('temperature', [1.0, 3.0])
def test_every_score(model: DynPerceiver, score: str, temperature: float) -> None:
    images = make_images(16)
    logits = full_logits(model, images)
    policy = spread_policy(logits, score, temperature)
    runner = DynamicRunner(model, policy)
    assert_replayed(runner(images), policy, logits)
    for count in (1, 2, 7):
        assert_replayed(runner(images[:count]), policy, logits[:, :count])


def test_what_was_skipped_did_not_run(model: DynPerceiver, calls: list[tuple[int, int]]) -> None:
    images = make_images(12)
    logits = full_logits(model, images)
    policy = spread_policy(logits)
    calls.clear()
    exit_S = DynamicRunner(model, policy)(images).exit_index.numpy()
    assert calls == [(number, int((exit_S >= number - 1).sum())) for number in (1, 2, 3, 4)]
    calls.clear()
    DynamicRunner(model, ExitPolicy((0.0, 0.5, 0.5)))(images)
    assert calls == [(1, 12)]


def test_stages_of_skipped_segments_did_not_run() -> None:
    """Not only segments: no layer of stage 3 or 4 runs when all leave at exit 1."""
    model = narrow_model()
    runner = DynamicRunner(model, ExitPolicy((0.0, 0.0, 0.0)))
    runner(make_images(1))
    network = runner.engine.network
    ran: list[str] = []
    for name, module in network.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    runner(make_images(2))
    late = ('feature_branch.stages.2', 'feature_branch.stages.3', 'latent_branch.x2z.3', 'latent_branch.last_z2x', 'exits.1', 'exits.3')
    assert 'feature_branch.stages.1' in ran and 'exits.0' in ran
    assert not [name for name in ran if name.startswith(late)]


@pytest.mark.parametrize(('thresholds', 'exit_index'), [((0.0, 2.0, 2.0), 0), ((2.0, 0.0, 2.0), 1), ((2.0, 2.0, 2.0), 3), ((1.01,) * 3, 3)])
def test_all_leave_at_once(model: DynPerceiver, thresholds: tuple[float, ...], exit_index: int) -> None:
    images = make_images(5)
    result = DynamicRunner(model, ExitPolicy(thresholds))(images)
    assert result.exit_index.tolist() == [exit_index] * 5
    np.testing.assert_allclose(result.logits.numpy(), full_logits(model, images)[exit_index], rtol=1e-5, atol=1e-5)


def test_without_a_policy_nobody_leaves_early(model: DynPerceiver) -> None:
    assert DynamicRunner(model)(make_images(3)).exit_index.tolist() == [3, 3, 3]


def test_an_empty_batch_runs_nothing(model: DynPerceiver, calls: list[tuple[int, int]]) -> None:
    runner = DynamicRunner(model, ExitPolicy((0.5, 0.5, 0.5)))
    result = runner(make_images(3)[:0])
    assert result.logits.shape == (0, 5) and result.exit_index.shape == result.confidence.shape == (0,)
    assert runner.full_logits(make_images(3)[:0]).shape == (4, 0, 5)
    assert not calls


@pytest.mark.parametrize('max_exit', [0, 1, 2, 3])
def test_exit_cap(model: DynPerceiver, calls: list[tuple[int, int]], max_exit: int) -> None:
    images = make_images(12)
    logits = full_logits(model, images)
    policy = spread_policy(logits)
    calls.clear()
    assert_replayed(DynamicRunner(model, policy, max_exit=max_exit)(images), policy, logits, max_exit)
    assert max(number for number, _ in calls) == max_exit + 1
    assert_replayed(DynamicRunner(model, policy)(images, max_exit=max_exit), policy, logits, max_exit)
    assert_replayed(gather(DynamicRunner(model, policy, max_exit=max_exit).stream([images])), policy, logits, max_exit)


def test_scores_that_are_no_numbers(model: DynPerceiver) -> None:
    engine = TorchEngine(freeze(model, (SIZE, SIZE)))
    with torch.no_grad():
        engine.network.exits[1].classifier.weight.mul_(float('nan'))
    with pytest.raises(ValueError, match=r'(?s)exit 2.*4 of 4'):
        EngineRunner(engine, ExitPolicy((2.0, 0.5, 0.5)))(make_images(4))
    images = make_images(4)
    images[2, 0, 5, 5] = float('nan')
    with pytest.raises(ValueError, match=r'(?s)exit 1.*1 of 4.*sample 2'):
        DynamicRunner(model, ExitPolicy((0.5, 0.5, 0.5)))(images)


class _Clock:
    """Time that passes only when a segment runs."""

    def __init__(self, model: DynPerceiver, milliseconds: tuple[float, ...]) -> None:
        self.seconds = 0.0
        for segment, duration in zip(model.segments, milliseconds, strict=True):
            segment.register_forward_hook(lambda *_, duration=duration: self.spend(duration))

    def spend(self, milliseconds: float) -> None:
        self.seconds += milliseconds / 1e3

    def __call__(self) -> float:
        return self.seconds


def test_deadline() -> None:
    model = narrow_model()
    clock = _Clock(model, (10.0, 20.0, 5.0, 5.0))
    images = make_images(3)
    logits = full_logits(model, images)
    runner = DynamicRunner(model, clock=clock)
    assert runner(images, deadline_ms=12).exit_index.tolist() == [1, 1, 1]  # nothing is known of segment 2 yet, and it is begun
    assert runner(images, deadline_ms=12).exit_index.tolist() == [0, 0, 0]
    runner.warm_up(images)
    for deadline_ms, exit_index in ((1, 0), (29.9, 0), (30.1, 1), (34.9, 1), (35.1, 2), (39.9, 2), (40.1, 3), (1e6, 3)):
        started = clock()
        result = runner(images, deadline_ms=deadline_ms)
        assert result.exit_index.tolist() == [exit_index] * 3, deadline_ms
        assert (clock() - started) * 1e3 <= max(deadline_ms, 10) + 1e-6
        np.testing.assert_allclose(result.logits.numpy(), logits[exit_index], rtol=1e-5, atol=1e-5)


def test_a_deadline_does_not_keep_anybody() -> None:
    model = narrow_model()
    images = make_images(12)
    logits = full_logits(model, images)
    policy = spread_policy(logits)
    runner = DynamicRunner(model, policy, clock=_Clock(model, (1.0, 1.0, 1.0, 1.0)))
    runner.warm_up(images)
    assert_replayed(runner(images, deadline_ms=2.5), policy, logits, max_exit=1)


@pytest.mark.parametrize(('sizes', 'batch_size'), [((4, 4, 4), 4), ((1,) * 12, 5), ((12,), 3), ((5, 0, 7), None), ((2, 3, 7), 100)])
def test_stream(model: DynPerceiver, calls: list[tuple[int, int]], sizes: tuple[int, ...], batch_size: int | None) -> None:
    images = make_images(12)
    logits = full_logits(model, images)
    policy = spread_policy(logits)
    calls.clear()
    batches = images.split(sizes)
    results = list(DynamicRunner(model, policy).stream(iter(batches), batch_size))
    assert_replayed(gather(results), policy, logits)
    assert sorted(itertools.chain.from_iterable(part.sample_index.tolist() for part in results)) == list(range(12))
    full = batch_size or sizes[0]
    for number in (1, 2, 3, 4):
        batches_seen = [count for segment, count in calls if segment == number]
        assert all(count == full for count in batches_seen[:-1]) and batches_seen[-1] <= full  # only the last one is not full


def test_a_stream_answers_while_it_runs(model: DynPerceiver) -> None:
    """It waits for no more batches than a segment needs."""
    fed: list[int] = []

    def batches() -> Iterator[torch.Tensor]:
        for number in range(6):
            fed.append(number)
            yield make_images(2, seed=number)

    stream = DynamicRunner(model, ExitPolicy((0.0, 0.5, 0.5))).stream(batches(), batch_size=4)
    assert next(stream).sample_index.tolist() == [0, 1, 2, 3]
    assert fed == [0, 1]


def test_streams_say_what_is_wrong(model: DynPerceiver) -> None:
    with pytest.raises(ValueError, match='batch_size=0: pass at least 1'):
        next(DynamicRunner(model).stream([make_images(1)], batch_size=0))
    with pytest.raises(ValueError, match='no samples'):
        gather(DynamicRunner(model).stream([]))


def test_clips_leave_whole() -> None:
    model = narrow_model(num_frames=3, temporal_shift='bidirectional')
    frames = make_images(8 * 3)
    logits = full_logits(model, frames)
    policy = spread_policy(logits)
    runner = DynamicRunner(model, policy)
    result = runner(frames)
    assert len(set(result.exit_index.tolist())) > 2
    assert_replayed(result, policy, logits)
    assert_replayed(runner(frames.unflatten(0, (8, 3))), policy, logits)
    assert_replayed(gather(runner.stream(frames.split(6), batch_size=3)), policy, logits)


@pytest.mark.parametrize('average_views', [None, 'score', 'prob'])
def test_views_of_a_video_leave_together(average_views: str | None) -> None:
    """On their average as the model says, or the runner's user."""
    model = narrow_model(num_frames=3, temporal_shift='bidirectional')
    frames = make_images(6 * 2 * 3)
    logits = torch.from_numpy(full_logits(model, frames)).unflatten(1, (6, 2))
    logits = (logits.softmax(-1).mean(2).log() if average_views == 'prob' else logits.mean(2)).numpy()
    policy = spread_policy(logits)
    holder = nn.ModuleDict({'backbone': model})
    if average_views is not None:
        holder.average_views = average_views
    runner = DynamicRunner(holder, policy, views=2)
    assert DynamicRunner(holder, policy, average_views='prob').average_views == 'prob'
    assert_replayed(runner(frames), policy, logits)
    assert_replayed(gather(runner.stream(frames.split(12), batch_size=3)), policy, logits)
    with pytest.raises(ValueError, match='3 clips are no whole number of videos of 2 views'):
        runner(frames[:9])


def test_full_logits_are_those_of_the_network(model: DynPerceiver) -> None:
    images = make_images(3)
    runner = DynamicRunner(model, ExitPolicy((0.0, 0.0, 0.0)))
    np.testing.assert_allclose(runner.full_logits(images), full_logits(model, images), rtol=1e-6, atol=1e-6)


def test_a_model_that_holds_the_network(model: DynPerceiver) -> None:
    holder = nn.ModuleDict({'backbone': model})
    images = make_images(2)
    expected = full_logits(model, images)[3]
    np.testing.assert_allclose(DynamicRunner(holder)(images.numpy()).logits.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_unfolded(model: DynPerceiver) -> None:
    images = make_images(4)
    np.testing.assert_array_equal(DynamicRunner(model, folded=False)(images).logits.numpy(), full_logits(model, images)[3])


def test_a_policy_of_another_checkpoint(model: DynPerceiver, tmp_path: Any) -> None:
    other = narrow_model()
    with torch.no_grad():
        other.exits[0].classifier.bias += 1
    mine, theirs = fingerprint_of_network(model), fingerprint_of_network(other)
    assert mine != theirs and mine == fingerprint_of_network(narrow_model())
    policy = ExitPolicy((0.5, 0.5, 0.5), record=PolicyRecord(checkpoint=theirs))
    path = tmp_path / 'policy.json'
    policy.save(path)
    for given in (policy, path, str(path)):
        with pytest.raises(ValueError) as caught:
            DynamicRunner(model, given)
        assert mine in str(caught.value) and theirs in str(caught.value)
    assert DynamicRunner(other, path).policy == policy


def test_wrong_arguments_say_value_rule_and_remedy(model: DynPerceiver) -> None:
    images = make_images(2)
    with pytest.raises(ValueError, match='2 thresholds, for 3 exits, but the network has 4 exits; pass 3 thresholds'):
        DynamicRunner(model, ExitPolicy((0.5, 0.5)))
    with pytest.raises(ValueError, match="backend='tensorrt' is unknown; choose 'torch' or 'onnxruntime'"):
        DynamicRunner(model, backend='tensorrt')
    with pytest.raises(ValueError, match='views=0'):
        DynamicRunner(model, views=0)
    with pytest.raises(ValueError, match='max_exit=4: pass the index of an exit, 0 to 3'):
        DynamicRunner(model, max_exit=4)
    runner = DynamicRunner(model)
    with pytest.raises(ValueError, match='max_exit=-1'):
        runner(images, max_exit=-1)
    for deadline_ms in (0, -1, float('nan')):
        with pytest.raises(ValueError, match=f'deadline_ms={deadline_ms}: pass a positive'):
            runner(images, deadline_ms=deadline_ms)
    with pytest.raises(EngineError, match=r'input of shape \(2, 56, 56, 3\): pass images as \(S, 3, H, W\)'):
        runner(images.permute(0, 2, 3, 1))
    with pytest.raises(EngineError, match=r'torch.uint8: pass normalised images'):
        runner(images.to(torch.uint8))
    with pytest.raises(EngineError, match='Linear holds no DynPerceiver'):
        DynamicRunner(nn.Linear(1, 1))
    with pytest.raises(EngineError, match='without exits'):
        DynamicRunner(build_model('resnet18', width=0.125, num_latents=8, depth_factors=(1, 1, 1, 1), num_classes=None))
    with pytest.raises(EngineError, match="pass backend='onnxruntime'"):
        DynamicRunner('some/folder')
    with pytest.raises(EngineError, match=r'there is no engine yet: .* run a batch first, or export the network for the size'):
        print(DynamicRunner(model, backend='onnxruntime').engine)
    assert DynamicRunner(model).engine.frozen.image_size == (224, 224)


def test_the_network_is_frozen_for_the_first_images_that_can_run(model: DynPerceiver) -> None:
    runner = DynamicRunner(model)
    for wrong in (make_images(2).permute(0, 2, 3, 1), make_images(2)[0], np.zeros(3)):
        with pytest.raises(EngineError, match=r'pass images as \(S, 3, H, W\)'):
            runner(wrong)
    runner(standard_normal((1, 3, 40, 56)))
    assert runner.engine.frozen.image_size == (40, 56)
    runner(make_images(1))
    assert runner.engine.frozen.image_size == (40, 56)
    clips = DynamicRunner(narrow_model(num_frames=2))
    clips(standard_normal((3, 2, 3, 32, 40)))
    assert clips.engine.frozen.image_size == (32, 40)


def test_images_of_another_size(model: DynPerceiver) -> None:
    """Folding is for one size, running is not."""
    runner = DynamicRunner(model)
    for side in (56, 72, 112):
        images = standard_normal((2, 3, side, side))
        np.testing.assert_allclose(runner(images).logits.numpy(), full_logits(model, images)[3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('num_frames', [1, 2])
def test_large_batches_run_in_parts(monkeypatch: pytest.MonkeyPatch, num_frames: int) -> None:
    """So many samples at once that the largest map of the segment stays small; the answers are the same."""
    model = narrow_model(num_frames=num_frames, temporal_shift='bidirectional' if num_frames > 1 else None)
    frames = make_images(9 * num_frames)
    logits = full_logits(model, frames)
    policy = spread_policy(logits)
    seen: list[tuple[int, int]] = []
    for segment in model.segments:
        segment.register_forward_hook(lambda module, args, output: seen.append((module.number, output[1].num_samples)))
    # The largest map of segment 1 has 16 channels of 14 x 14 (float64), that of segment 2 32 of 7 x 7, those of the others 64 of 4 x 4.
    monkeypatch.setattr(torch_engine, 'CPU_MAP_BYTES', 2 * num_frames * 16 * 14 * 14 * 8)
    runner = DynamicRunner(model)
    assert_replayed(runner(frames), runner.policy, logits)
    assert seen == [(1, 2)] * 4 + [(1, 1), (2, 4), (2, 4), (2, 1), (3, 6), (3, 3), (4, 6), (4, 3)]
    assert_replayed(DynamicRunner(model, policy)(frames), policy, logits)


def test_maps_stay_channels_last(model: DynPerceiver) -> None:
    """A narrowed map that were laid out anew would be copied by the next convolution."""
    engine = TorchEngine(freeze(model, (SIZE, SIZE)))
    state = engine.start(make_images(4))
    for exit_index in range(3):
        _, state = engine.run(exit_index, state)
        for narrowed in (engine.select(state, np.array([2, 0])), engine.concat([state, state])):
            assert narrowed.feature_BCHW.is_contiguous(memory_format=torch.channels_last)
