"""tools/dist_train.sh and tools/dist_test.sh with two processes on the CPU: a config of every task."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import several_tools
import tiny_action
from classification_runs import make_digits, write_classification_config
from tiny_detection import FIGURES, LEAVES, make_photos, write_detection_config
from tool_runs import ROOT, finish, free_port, records_of_ranks, result_of_test, run_here, start, text_of_log, write_hooked_config

TASKS = ('classification', 'action', 'detection')
NUM_TRAIN = dict(classification=12, action=8, detection=4)
BATCHES = ('train_cfg.max_epochs=1', 'default_hooks.checkpoint.save_best=None', 'train_dataloader.batch_size=2')

each_task = pytest.mark.parametrize('task', TASKS)


def command_of(script: str, *arguments: str | Path) -> list[str]:
    """What a shell script would start, from the name of Python's module on."""
    process = subprocess.run(
        [ROOT / 'tools' / script, *arguments], env=dict(PYTHON='echo', PORT='12345', PATH='/usr/bin:/bin'), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.split()


def test_scripts_start_as_many_processes_as_they_are_told() -> None:
    launcher = ['-m', 'torch.distributed.run', '--nnodes=1', '--node_rank=0', '--master_addr=127.0.0.1', '--nproc_per_node=2']
    launcher.append('--master_port=12345')
    tools = str(ROOT / 'tools')
    words = command_of('dist_train.sh', 'config.py', '2', '--work-dir', 'w')
    assert words == [*launcher, f'{tools}/train.py', 'config.py', '--launcher', 'pytorch', '--work-dir', 'w']
    words = command_of('dist_test.sh', 'config.py', 'some.pth', '2', '--out', 'o.pkl')
    assert words == [*launcher, f'{tools}/test.py', 'config.py', 'some.pth', '--launcher', 'pytorch', '--out', 'o.pkl']


class Runs:
    """One epoch of every task by two processes, and a test of the images by two, all in the same two.

    Attributes:
        folder: Where everything is; the work dir of a task has its name.
        configs: Leaf configs, by task.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        photos = make_photos(folder / 'photos', num_train=NUM_TRAIN['detection'])
        blood = LEAVES / 'faster-rcnn_dynperceiver-r18x0.5_fpn_bccd.py'
        self.configs = dict(
            classification=write_classification_config(
                folder / 'images.py', make_digits(folder / 'digits', num_train=NUM_TRAIN['classification'])
            ),
            action=tiny_action.write_config(
                folder / 'clips.py', tiny_action.make_clips(folder / 'clips', num_train=NUM_TRAIN['action'], num_val=7)
            ),
            detection=write_detection_config(folder / 'photos.py', blood, photos),
        )
        commands = []
        for task, config in self.configs.items():
            (folder / f'{task}_records').mkdir()
            hook = f"type='RecordRankHook', folder='{folder / f'{task}_records'}'"
            watched = write_hooked_config(folder / f'watched_{task}.py', config, hook)
            options = ['--launcher', 'pytorch', '--work-dir', folder / task, '--cfg-options', *BATCHES]
            commands.append(['tools/train.py', watched, *options])
        self.checkpoint = folder / 'classification' / 'epoch_1.pth'
        command = ['tools/test.py', self.configs['classification'], self.checkpoint, '--launcher', 'pytorch']
        commands.append([*command, '--work-dir', folder / 'tested'])
        words = command_of('dist_train.sh', 'config.py', '2')
        words[words.index('--master_port=12345')] = f'--master_port={free_port()}'
        words[words.index(f'{ROOT}/tools/train.py') :] = [several_tools.__file__, json.dumps(commands, default=str)]
        finish(start(words))

    def ranks(self, task: str) -> list[dict[str, Any]]:
        """What each rank recorded of a task's training."""
        return records_of_ranks(self.folder / f'{task}_records')


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp('two'))


@each_task
def test_both_ranks_end_with_the_same_weights(task: str, runs: Runs) -> None:
    first, second = runs.ranks(task)
    assert first['start'] == second['start'] != first['after_step']
    assert first['after_step'] == second['after_step']
    assert first['end'] == second['end']  # running statistics of the norms included
    assert first['averages'] == second['averages']  # those of averaged weights, too
    assert len(first['averages']) == (task != 'action')


@each_task
def test_each_rank_trains_on_its_own_half(task: str, runs: Runs) -> None:
    first, second = runs.ranks(task)
    files = [Path(name) for name in first['files'] + second['files']]
    assert len(first['files']) == len(second['files']) == NUM_TRAIN[task] / 2
    assert len(set(files)) == NUM_TRAIN[task]
    folder = {'classification': 'digits/train', 'action': 'clips/train', 'detection': 'photos/images'}[task]
    assert all(path.is_relative_to(runs.folder / folder) for path in files)
    assert first['losses'] != second['losses']


@each_task
def test_no_parameter_goes_unused(task: str, runs: Runs) -> None:
    """Every exit is in the loss, and a detector builds none, so the wrapper need not look for parameters without a gradient."""
    assert [(rank['wrapped'], rank['find_unused_parameters']) for rank in runs.ranks(task)] == [(True, False)] * 2


@each_task
def test_two_processes_leave_one_checkpoint_and_validate_every_sample(task: str, runs: Runs) -> None:
    assert [path.name for path in (runs.folder / task).glob('*.pth')] == ['epoch_1.pth']
    said = {'classification': ['accuracy per exit on 11 samples'], 'action': ['accuracy per exit on 7 samples']}
    text = text_of_log(runs.folder / task)
    assert all(words in text for words in said.get(task, [f'coco/bbox_{name}' for name in FIGURES]))


def test_two_processes_test_like_one(runs: Runs) -> None:
    """Each image once: 11 are not even between two."""
    run_here('tools/test.py', runs.configs['classification'], runs.checkpoint, '--work-dir', runs.folder / 'alone')
    alone, together = (result_of_test(runs.folder / name) for name in ('alone', 'tested'))
    assert together == pytest.approx(alone, rel=1e-5, abs=1e-7)
