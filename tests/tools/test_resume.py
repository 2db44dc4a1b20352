"""--resume: a training that was killed ends like one that was not, step for step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tool_runs import close_workers, quick_runner, training_curve

import dynperceiver_action  # noqa: F401  registers what configs name

if TYPE_CHECKING:
    from conftest import TinyRuns


def test_killed_training_was_killed_in_the_middle_of_an_epoch(tiny_runs: TinyRuns) -> None:
    assert sorted(training_curve(tiny_runs.killed)) == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in tiny_runs.killed.glob('*.pth')) == ['epoch_1.pth']


def test_resumed_training_repeats_the_uninterrupted_one_step_for_step(tiny_runs: TinyRuns) -> None:
    """Losses, accuracies, gradient norms and learning rates, to the last bit."""
    whole, killed, resumed = (training_curve(folder) for folder in (tiny_runs.trained, tiny_runs.killed, tiny_runs.resumed))
    assert killed == {step: whole[step] for step in range(1, 7)}
    assert resumed == {step: whole[step] for step in range(5, 13)}
    assert len({line['loss'] for line in whole.values()}) == 12


def test_resumed_training_ends_with_the_same_weights(tiny_runs: TinyRuns) -> None:
    whole, resumed = (torch.load(folder / 'epoch_3.pth', weights_only=True) for folder in (tiny_runs.trained, tiny_runs.resumed))
    assert list(whole['state_dict']) == list(resumed['state_dict'])
    for key, value in whole['state_dict'].items():
        torch.testing.assert_close(resumed['state_dict'][key], value, rtol=0, atol=0)


def losses(config: Path, work_dir: Path, num_epochs: int, watch: Callable[[Any], None] | None = None, **arguments: Any) -> list[float]:
    """Train within this process; returns the loss of every iteration. ``watch`` is called with every batch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runner = quick_runner(config, work_dir, train_cfg=dict(by_epoch=True, max_epochs=num_epochs), param_scheduler=None, **arguments)
        seen: list[float] = []
        step = runner.model.train_step

        def watched(data: Any, optim_wrapper: Any) -> Any:
            if watch is not None:
                watch(data)
            outputs = step(data, optim_wrapper=optim_wrapper)
            seen.append(outputs['loss'].item())
            return outputs

        runner.model.train_step = watched
        runner.train()
        close_workers(runner)
    finally:
        torch.set_num_threads(threads)
    return seen


@pytest.mark.parametrize('hooked', [True, False])
def test_only_the_hook_makes_it_so(tiny_config: Path, tmp_path: Path, hooked: bool) -> None:
    """Without it the resumed epoch differs, so the tests above can fail; with it, not even where the config has another seed."""
    hooks = [dict(type='dynperceiver.ResumableRandomnessHook')] if hooked else []
    whole = losses(tiny_config, tmp_path / 'whole', 2, hooks=hooks, randomness=dict(seed=5))
    resumed = losses(tiny_config, tmp_path / 'resumed', 2, hooks=hooks, resume=True, load_from=str(tmp_path / 'whole' / 'epoch_1.pth'))
    assert len(whole) == 8 and len(resumed) == 4
    assert (resumed == whole[4:]) == hooked


def test_samples_look_different_in_every_epoch(tiny_config: Path, tmp_path: Path) -> None:
    """The same clip is cropped and sampled anew, also by workers that persist from epoch to epoch."""
    looks: dict[str, set[bytes]] = {}

    def watch(batch: Any) -> None:
        for clip, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
            looks.setdefault(sample.filename, set()).add(clip.numpy().tobytes())

    losses(tiny_config, tmp_path, 3, watch=watch, hooks=[dict(type='dynperceiver.ResumableRandomnessHook')])
    assert len(looks) == 16
    assert [len(look) for look in looks.values()] == [3] * 16


def test_number_of_workers_does_not_matter(tiny_config: Path, tmp_path: Path) -> None:
    """What is random about a sample depends on seed, epoch and sample alone, and the model's own randomness on the iteration."""
    from mmengine.config import Config

    loader = Config.fromfile(tiny_config).train_dataloader
    assert loader.num_workers == 2 and loader.persistent_workers
    hooks = [dict(type='dynperceiver.ResumableRandomnessHook')]
    alone = losses(tiny_config, tmp_path / 'alone', 1, hooks=hooks, train_dataloader=dict(loader, num_workers=0, persistent_workers=False))
    assert alone == losses(tiny_config, tmp_path / 'workers', 1, hooks=hooks)
