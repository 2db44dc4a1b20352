"""A training that was killed and resumed ends like one that was not, to the last bit; so do the processes of one training."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_training
import torch
from tiny_training import NUM_SAMPLES, STEPS_PER_EPOCH, Watch, make_runner
from tool_runs import bits, close_workers, finish, free_port, start

from dynperceiver.hooks import ResumableRandomnessHook, resumable_randomness

HOOK = dict(type='dynperceiver.ResumableRandomnessHook')


def train(work_dir: Path, *hooks: dict[str, Any], **changes: Any) -> Watch:
    """Train within this process."""
    watch = Watch()
    runner = make_runner(work_dir, *hooks, watch, **changes)
    runner.train()
    close_workers(runner)
    return watch


def checkpoint(work_dir: Path, epoch: int = 3) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(work_dir / f'epoch_{epoch}.pth', weights_only=True)
    return content


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Watch]:
    """A training that nothing stopped."""
    folder = tmp_path_factory.mktemp('whole')
    return folder, train(folder, HOOK)


@pytest.fixture(scope='module')
def processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the same training ``killed`` in the middle of epoch 2, and one by ``two`` processes; see ``tiny_training.py``."""
    folder = tmp_path_factory.mktemp('processes')
    (folder / 'two').mkdir()
    finish(start([tiny_training.__file__, folder, free_port()]))
    assert sorted(path.name for path in (folder / 'killed').glob('*.pth')) == ['epoch_1.pth']
    return folder


def test_resumed_training_repeats_the_uninterrupted_one_bit_for_bit(whole: tuple[Path, Watch], processes: Path, tmp_path: Path) -> None:
    """Samples, losses, weights, their averages, and what the optimizer and the schedules remember."""
    shutil.copytree(processes / 'killed', tmp_path / 'resumed')
    resumed = train(tmp_path / 'resumed', HOOK, resume=True)
    folder, watch = whole
    assert len(set(watch.losses.values())) == 3 * STEPS_PER_EPOCH
    assert resumed.losses == {step: loss for step, loss in watch.losses.items() if step > STEPS_PER_EPOCH}
    assert resumed.looks == {number: looks[1:] for number, looks in watch.looks.items()}
    expected, found = checkpoint(folder), checkpoint(tmp_path / 'resumed')
    for part in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert bits(found[part]) == bits(expected[part]), part
    averaged, own = expected['state_dict'], expected['ema_state_dict']
    moved = {name for name, value in averaged.items() if value.is_floating_point() and not torch.equal(value, own[f'module.{name}'])}
    assert moved == {name for name, value in averaged.items() if value.is_floating_point()}


@pytest.mark.parametrize('hooked', [True, False])
def test_only_the_hook_makes_it_so(tmp_path: Path, hooked: bool) -> None:
    """Without it the resumed epoch differs, so the test above can fail; with it, not even where the config has another seed."""
    hooks = [HOOK] if hooked else []
    epochs = dict(train_cfg=dict(by_epoch=True, max_epochs=2))
    first = train(tmp_path / 'whole', *hooks, randomness=dict(seed=5), **epochs)
    second = train(tmp_path / 'resumed', *hooks, resume=True, load_from=str(tmp_path / 'whole' / 'epoch_1.pth'), **epochs)
    assert list(second.losses) == [5, 6, 7, 8]
    assert (second.losses == {step: first.losses[step] for step in second.losses}) == hooked


def test_samples_look_different_in_every_epoch(whole: tuple[Path, Watch]) -> None:
    """Also by workers that persist from epoch to epoch."""
    looks = whole[1].looks
    assert sorted(looks) == list(range(NUM_SAMPLES))
    assert [len(set(images)) for images in looks.values()] == [3] * NUM_SAMPLES


def test_every_step_of_every_process_draws_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = ResumableRandomnessHook()
    draws: list[float] = []
    for rank in (0, 1):
        monkeypatch.setattr(resumable_randomness, 'get_rank', lambda rank=rank: rank)
        for step in range(2 * STEPS_PER_EPOCH):
            hook.before_train_iter(SimpleNamespace(seed=0, epoch=step // STEPS_PER_EPOCH, iter=step), step % STEPS_PER_EPOCH)
            draws.append(float(torch.rand(())))
    assert len(set(draws)) == 4 * STEPS_PER_EPOCH


def test_number_of_workers_does_not_matter(whole: tuple[Path, Watch], tmp_path: Path) -> None:
    """What is random about a sample depends on seed, epoch and sample alone, and the model's own randomness on the iteration."""
    alone = train(tmp_path / 'alone', HOOK, num_workers=0)
    assert (alone.losses, alone.looks) == (whole[1].losses, whole[1].looks)


@pytest.fixture
def ranks(processes: Path) -> list[dict[str, Any]]:
    """What the two processes have seen, with ``--diff-rank-seed``, and what they ended with."""
    return [torch.load(processes / 'two' / f'{rank}.pth', weights_only=True) for rank in (0, 1)]


def test_processes_share_the_samples_out_anew_in_every_epoch(ranks: list[dict[str, Any]]) -> None:
    """Each sample once per epoch, whatever the seeds of the processes."""
    assert [len(rank['losses']) for rank in ranks] == [6, 6]
    assert ranks[0]['losses'] != ranks[1]['losses']
    counts = [[len(rank['looks'].get(number, ())) for number in range(NUM_SAMPLES)] for rank in ranks]
    assert [sum(pair) for pair in zip(*counts, strict=True)] == [3] * NUM_SAMPLES
    assert {count for each in counts for count in each} > {0, 3}, 'in another order every time'


def test_processes_end_with_the_same_weights_and_averages(ranks: list[dict[str, Any]]) -> None:
    """The averages' statistics, too, which MMEngine leaves as each process saw them."""
    assert bits(ranks[1]['weights']) == bits(ranks[0]['weights'])
    assert bits(ranks[1]['averages']) == bits(ranks[0]['averages'])
    (averages,) = ranks[0]['averages']
    assert not torch.equal(averages['module.block.1.running_mean'], ranks[0]['weights']['block.1.running_mean'])
