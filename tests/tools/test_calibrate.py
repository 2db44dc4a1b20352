"""tools/calibrate.py on tiny images and clips: what it writes, prints and refuses."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import runpy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_action
import torch
from classification_runs import make_digits, write_classification_config
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.visualization import Visualizer
from tool_runs import ROOT, keep_layout, write_quick_config

from dynperceiver.analysis import count_exit_costs
from dynperceiver.calibration.calibrate import calibrate
from dynperceiver.deployment.fingerprints import fingerprint_of_network
from dynperceiver.inference import ExitPolicy

NUM_HELD_OUT = 40
BUDGET = ('--budget-gflops', '1')
HELD_OUT_DATA = 'calibration_dataloader.dataset.data_root={data}'
HELD_OUT = """
calibration_dataloader = dict(
    batch_size=16, num_workers=0, dataset=dict(data_root='{data}'{more}))
"""
VIEWS = """
calibration_dataloader.update(dataset=dict(
    type='dynperceiver_action.VideoDataset', data_root='{data}', ann_file='val.txt', data_prefix=dict(video=''), test_mode=True,
    pipeline=[dict(test_pipeline[0]), dict(test_pipeline[1], num_clips=8), *test_pipeline[2:]]))
"""


@contextmanager
def _forgotten_runs() -> Iterator[None]:
    """Runs within the same second have the same name, by which MMEngine would hand out the log of one whose folder is gone."""
    managers = (MMLogger, MessageHub, Visualizer, DefaultScope)
    before = [manager._instance_dict.copy() for manager in managers]
    try:
        yield
    finally:
        for manager, instances in zip(managers, before, strict=True):
            manager._instance_dict.clear()
            manager._instance_dict.update(instances)


class Task:
    """A task's tiny data, config and checkpoint, and calls of the tool."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir()
        self.folder, self.held_out = folder, folder / 'held_out'
        if name == 'action':
            data = tiny_action.make_clips(folder / 'data', num_train=8, num_val=8)
            tiny_action.make_clips(self.held_out, num_train=8, num_val=16)
            more = HELD_OUT.format(data=self.held_out, more='') + VIEWS.format(data=self.held_out)
            plain = tiny_action.write_config(folder / 'tiny.py', data, more)
        else:
            data = make_digits(folder / 'data')
            make_digits(self.held_out, num_train=10, num_val=NUM_HELD_OUT)
            plain = write_classification_config(folder / 'tiny.py', data, HELD_OUT.format(data=self.held_out, more=''))
        self.data, self.config, self.checkpoint = data, write_quick_config(folder / 'quick.py', plain), folder / 'some.pth'
        self.cfg = Config.fromfile(self.config, format_python_code=False)
        init_default_scope(self.cfg.default_scope)
        torch.manual_seed(1)
        self.model = MODELS.build(self.cfg.model).eval()
        for key, parameter in self.model.backbone.named_parameters():
            if key.startswith('exits.') and key.endswith('weight') and parameter.shape[0] == self.model.backbone.num_classes:
                parameter.data.mul_(20)  # so that scores differ by more than rounding
        self.save(self.checkpoint)

    def save(self, path: Path, trained_by: Config | None = None) -> Path:
        """Save the checkpoint, with the text of the config that it was trained by."""
        meta = {} if trained_by is None else {'meta': {'cfg': trained_by.pretty_text}}
        torch.save({'state_dict': self.model.state_dict(), **meta}, path)
        return path

    def run(self, tool: str, *flags: str | Path, checkpoint: Path | None = None) -> None:
        """Run a tool within this process."""
        with pytest.MonkeyPatch.context() as patch:
            keep_layout(patch)
            patch.setattr('gc.collect', lambda *generation: 0)  # which every data set asks for, and which takes as long as all else
            patch.setattr('sys.argv', [f'{tool}.py', *map(str, [self.config, checkpoint or self.checkpoint, *flags])])
            try:
                with _forgotten_runs():
                    runpy.run_path(str(ROOT / 'tools' / f'{tool}.py'), run_name='__main__')
            finally:
                logging.disable(logging.NOTSET)

    def calibrate(self, path: Path, *flags: str | Path, **arguments: Any) -> ExitPolicy:
        """The policy that the tool writes."""
        self.run('calibrate', '--out', path, *flags, **arguments)
        return ExitPolicy.load(path)

    def refused(self, path: Path, *flags: str | Path, **arguments: Any) -> str:
        """Message of a call that writes nothing."""
        with pytest.raises(SystemExit) as caught:
            self.run('calibrate', '--out', path, *flags, **arguments)
        message = str(caught.value.code)
        assert message.startswith('error: ') and 'Traceback' not in message
        return message

    def expected_logits(self) -> tuple[np.ndarray, np.ndarray]:
        """Logits of all exits and labels of the held-out images, in their order."""
        from mmengine.runner import Runner

        loader = Runner.build_dataloader(dict(self.cfg.calibration_dataloader, persistent_workers=False))
        logits, labels = [], []
        for batch in loader:
            batch = self.model.data_preprocessor(batch, False)
            with torch.no_grad():
                logits.append(torch.stack(self.model(**batch, mode='tensor')).float().numpy())
            labels += [int(sample.gt_label) for sample in batch['data_samples']]
        return np.concatenate(logits, 1), np.array(labels)


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Images."""
    return Task(tmp_path_factory.mktemp('calibrate') / 'images', 'images')


@pytest.fixture(scope='module')
def kept(images: Task, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str, str]:
    """A policy for half of the samples at exit 1, kept logits, and what was printed."""
    folder = tmp_path_factory.mktemp('kept')
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        images.calibrate(folder / 'a.json', '--exit-fractions', '0.5', '0.2', '0.2', '0.1', '--save-logits', folder / 'a.npz')
    return folder / 'a.json', folder / 'a.npz', out.getvalue(), err.getvalue()


def test_policy_is_that_of_the_networks_logits_and_tells_what_it_is_of(images: Task, kept: tuple[Path, Path, str, str]) -> None:
    logits_ESK, labels_S = images.expected_logits()
    assert logits_ESK.shape == (4, NUM_HELD_OUT, 10)
    costs = [cost.cost_gmacs for cost in count_exit_costs(images.model.backbone, 32, 32)]
    expected = calibrate(logits_ESK, labels_S, exit_fractions=(0.5, 0.2, 0.2, 0.1), cost_gflops=costs)
    policy = ExitPolicy.load(kept[0])
    assert policy.thresholds == pytest.approx(expected.thresholds, abs=1e-4)
    assert policy.record is not None and expected.record is not None
    assert policy.record.checkpoint == fingerprint_of_network(images.model.backbone)
    assert policy.record.calibration_set is not None and policy.record.calibration_set != expected.record.calibration_set
    assert policy.record.num_samples == NUM_HELD_OUT and policy.record.solved_for == {'exit_fractions': [0.5, 0.2, 0.2, 0.1]}
    assert policy.record.cost_gflops == pytest.approx(costs) and policy.record.cost_ms is None
    for name, value in expected.record.expected.items():
        assert policy.record.expected[name] == pytest.approx(value, abs=1e-6), name
    assert str(images.folder) not in kept[0].read_text()


def test_table_is_for_people(images: Task, kept: tuple[Path, Path, str, str]) -> None:
    path, _, out, err = kept
    policy, rows = ExitPolicy.load(path), [line.split() for line in out.splitlines()]
    assert policy.record is not None and policy.record.cost_gflops is not None
    assert '\n40 held-out samples; fractions 0.5 / 0.2 / 0.2 / 0.1 at the exits; by confidence\n' in out
    assert ['exit', 'threshold', 'fraction', 'accuracy', 'GFLOPs'] in rows
    (first,) = [row for row in rows if row[:1] == ['1']]
    assert first[1] == f'{policy.thresholds[0]:.4f}' and first[2] == '50.0%' and first[4] == f'{policy.record.cost_gflops[0]:.4g}'
    (last,) = [row for row in rows if row[:1] == ['4']]
    assert last[1:4] == ['the', 'rest', '10.0%']
    (summary,) = [row for row in rows if row[:1] == ['policy']]
    assert summary == ['policy', f'{policy.record.expected["accuracy"]:.2%}', f'{policy.record.expected["mean_gflops"]:.4g}']
    (full,) = [row for row in rows if row[:1] == ['full']]
    assert full == ['full', f'{policy.record.expected["full_accuracy"]:.2%}', f'{policy.record.cost_gflops[-1]:.4g}']
    assert out.splitlines()[-1].endswith(f'next: python tools/test.py {images.config} {images.checkpoint} --exit-policy {path}')
    assert 'held-out samples: batch 3 of 3' in err.splitlines()[-1]


def test_kept_logits_spare_the_pass(
    images: Task, kept: tuple[Path, Path, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dynperceiver.calibration.held_out_logits as module

    monkeypatch.setattr(module, 'collect_logits', None)
    from_logits = ('--from-logits', kept[1])
    assert images.calibrate(tmp_path / 'a.json', '--exit-fractions', '0.5', '0.2', '0.2', '0.1', *from_logits) == ExitPolicy.load(kept[0])
    costs = [cost.cost_gmacs for cost in count_exit_costs(images.model.backbone, 32, 32)]
    budget = (costs[0] + costs[3]) / 2
    policy = images.calibrate(tmp_path / 'b.json', '--budget-gflops', str(budget), *from_logits, '--score', 'margin', '--fit-temperature')
    assert policy.score == 'margin' and policy.temperatures != (1.0,) * 4
    assert policy.record is not None and policy.record.expected['mean_gflops'] <= budget
    careful = images.calibrate(tmp_path / 'c.json', '--max-accuracy-drop', '0.5', '--confidence-level', '0.8', *from_logits)
    assert careful.record is not None and careful.record.solved_for == {'max_accuracy_drop': 0.5, 'confidence_level': 0.8}


def test_times_are_of_this_run(images: Task, kept: tuple[Path, Path, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dynperceiver.benchmark.exit_times as module

    asked: list[tuple[str, int]] = []

    def time_exits(model: Any, loader: Any, backend: str, batch_size: int) -> tuple[tuple[float, ...], str]:
        asked.append((backend, batch_size))
        return (1.0, 2.0, 3.0, 4.0), 'a machine'

    monkeypatch.setattr(module, 'time_exits', time_exits)
    flags = ('--from-logits', kept[1], '--batch-size', '8', '--backend', 'onnxruntime')
    policy = images.calibrate(tmp_path / 'ms.json', '--budget-ms', '2.5', *flags)
    assert asked == [('onnxruntime', 8)] and policy.record is not None
    assert policy.record.cost_ms == (1, 2, 3, 4) and policy.record.machine == 'a machine' and policy.record.expected['mean_ms'] <= 2.5
    assert policy.record.cost_gflops is not None, 'both costs are kept'
    assert 'below the cost of exit 1' in images.refused(tmp_path / 'x.json', '--budget-ms', '0.5', *flags)


def test_tools_test_takes_the_policy(images: Task, kept: tuple[Path, Path, str, str], tmp_path: Path) -> None:
    images.run('test', '--work-dir', tmp_path, '--exit-policy', kept[0])
    assert list(tmp_path.glob('*/*.json'))


def test_video_of_several_views(tmp_path: Path) -> None:
    task = Task(tmp_path / 'clips', 'action')
    policy = task.calibrate(tmp_path / 'a.json', '--exit-fractions', '0.25', '0.25', '0.25', '0.25', '--save-logits', tmp_path / 'a.npz')
    single = [cost.cost_gmacs for cost in count_exit_costs(task.model.backbone, tiny_action.SIZE, tiny_action.SIZE)]
    assert policy.record is not None and policy.record.num_samples == 16
    assert policy.record.cost_gflops == pytest.approx([2 * cost for cost in single])
    with np.load(tmp_path / 'a.npz') as arrays:
        assert arrays['form'].tolist() == [tiny_action.SIZE, tiny_action.SIZE, 2]
        assert arrays['labels_S'].tolist() == [number % 8 for number in range(16)]


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        ([*BUDGET, '--cfg-options', 'calibration_dataloader=None'], ['no calibration_dataloader', '; add one']),
        ([*BUDGET, '--cfg-options', HELD_OUT_DATA], ['11 of its 11 samples are tested on', 'val/']),
        (
            [*BUDGET, '--cfg-options', HELD_OUT_DATA, 'calibration_dataloader.dataset.data_prefix.img_path=train'],
            ['16 of its 16 samples were trained on', 'train/'],
        ),
        ([*BUDGET, '--cfg-options', 'calibration_dataloader.dataset.data_root=no/where'], ['no/where', 'is missing']),
        (['--budget-gflops', '1e-6'], ['below the cost of exit 1']),
        (['--exit-fractions', '0.5', '0.5'], ['pass 4 numbers']),
        ([*BUDGET, '--batch-size', '0'], ['--batch-size 0: pass 1 or more']),
        ([*BUDGET, '--from-logits', 'none.npz'], ['logits none.npz are missing']),
        ([*BUDGET, '--save-logits', 'no/where.npz'], ['--save-logits no/where.npz: its folder is missing']),
        ([*BUDGET, '--save-logits', '{data}'], ['--save-logits', 'data is a folder; pass the name of a file']),
        ([*BUDGET, '--save-logits', '{data}', '--overwrite'], ['data is a folder; pass the name of a file']),
        ([*BUDGET, '--out', '{data}', '--overwrite'], ['--out', 'data is a folder; pass the name of a file']),
        ([*BUDGET, '--out', '/dev/null', '--overwrite'], ['--out /dev/null is no plain file; pass the name of a file']),
        ([*BUDGET, '--out', '/proc/a.json'], ['--out /proc/a.json: nothing can be written to its folder (', '; choose another']),
        ([*BUDGET, '--save-logits', '/proc/a.npz'], ['--save-logits /proc/a.npz: nothing can be written to its folder']),
    ],
)
def test_what_cannot_be_done_is_named(
    images: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], words: list[str]
) -> None:
    import dynperceiver.calibration.held_out_logits as module

    monkeypatch.setattr(module, 'collect_logits', None)  # all of this is said before the network runs
    message = images.refused(tmp_path / 'out.json', *[flag.format(data=images.data) for flag in flags])
    assert all(word in message for word in words), message
    assert not any(tmp_path.iterdir())


def test_files_are_replaced_on_request_alone(images: Task, kept: tuple[Path, Path, str, str], tmp_path: Path) -> None:
    path = tmp_path / 'a.json'
    path.write_text('mine')
    flags = ('--exit-fractions', '1', '0', '0', '0', '--from-logits', kept[1])
    assert f'--out {path} exists already; choose another name or pass --overwrite' in images.refused(path, *flags)
    message = images.refused(tmp_path / 'b.json', *flags[:-2], '--save-logits', path)
    assert f'--save-logits {path} exists already' in message
    assert path.read_text() == 'mine'
    images.calibrate(path, *flags, '--overwrite')
    assert json.loads(path.read_text())['record']['expected']['exit_fractions'] == [1, 0, 0, 0]


def test_a_part_of_the_training_data_counts_by_what_the_checkpoint_saw(images: Task, tmp_path: Path) -> None:
    """The config trains on all images, and a checkpoint says that it left a part out."""
    make_digits(tmp_path / 'data', num_train=40)
    part = [f'train_dataloader.dataset.data_root={tmp_path / "data"}']
    part += [f'calibration_dataloader.dataset.{key}' for key in (f'data_root={tmp_path / "data"}', 'part=holdout', 'holdout=0.25')]
    flags = ['--exit-fractions', '1', '0', '0', '0', '--cfg-options', *part, 'calibration_dataloader.dataset.data_prefix.img_path=train']
    message = images.refused(tmp_path / 'a.json', *flags)
    assert '10 of its 10 samples were trained on' in message
    assert 'train with --cfg-options train_dataloader.dataset.part=train train_dataloader.dataset.holdout=0.25' in message
    trained = Config(dict(train_dataloader=images.cfg.train_dataloader.to_dict()), format_python_code=False)
    trained.train_dataloader.dataset.update(data_root=str(tmp_path / 'data'), part='train', holdout=0.25)
    older = images.save(tmp_path / 'older.pth', trained)  # than seeds: its text is that of a config that names none
    message = images.refused(tmp_path / 'b.json', *flags, checkpoint=older)
    same_part = 'calibration_dataloader.dataset.split_seed=None'
    assert 'samples were trained on' in message and f'with --cfg-options {same_part}; or train' in message
    assert images.calibrate(tmp_path / 'b.json', *flags, same_part, checkpoint=older).record is not None
    trained.train_dataloader.dataset.split_seed = 0
    policy = images.calibrate(tmp_path / 'c.json', *flags, checkpoint=images.save(tmp_path / 'left_out.pth', trained))
    assert policy.record is not None and policy.record.num_samples == 10


def test_logits_of_other_weights_are_refused(images: Task, kept: tuple[Path, Path, str, str], tmp_path: Path) -> None:
    state_dict = {key: value + 0.01 for key, value in images.model.state_dict().items()}
    torch.save({'state_dict': state_dict}, tmp_path / 'other.pth')
    message = images.refused(tmp_path / 'a.json', *BUDGET, '--from-logits', kept[1], checkpoint=tmp_path / 'other.pth')
    assert 'is of other weights' in message and '--save-logits' in message
