"""A training on clips so small that it takes seconds: data, config, and ways to run the tools on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmengine.runner import Runner

ROOT = Path(__file__).resolve().parents[2]
DEMO_CONFIG = ROOT / 'configs' / 'action' / 'tsm_dynperceiver_demo.py'
SOURCES = [ROOT / 'packages' / name / 'src' for name in ('core', 'action')]
NUM_FRAMES, SIZE = 4, 32
BACKBONE: dict[str, Any] = dict(
    feature_branch='resnet18', width=0.125, num_latents=8, depth_factors=(1 / 3, 1 / 3, 1 / 9, 1 / 3), num_frames=NUM_FRAMES
)

# Everything that is random in a real recipe is on: temporal sampling, crops, dropout, stochastic depth.
CONFIG_TEXT = """\
_base_ = ['{demo}']
data_root = '{data}'
frames = dict(type='mmaction.SampleFrames', clip_len=1, frame_interval=1, num_clips={frames})
ending = [dict(type='mmaction.FormatShape', input_format='NCHW'),
          dict(type='mmaction.PackActionInputs', meta_keys=('img_shape', 'filename'))]
train_pipeline = [dict(type='mmaction.DecordInit'), frames, dict(type='mmaction.DecordDecode'),
                  dict(type='mmaction.RandomCrop', size={size}), *ending]
test_pipeline = [dict(type='mmaction.DecordInit'), dict(frames, test_mode=True), dict(type='mmaction.DecordDecode'),
                 dict(type='mmaction.CenterCrop', crop_size={size}), *ending]
model = dict(backbone=dict(width=0.125, num_latents=8, num_frames={frames}, dropout=0.3, drop_path=0.3))
train_dataloader = dict(batch_size=4, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=3)
default_hooks = dict(logger=dict(interval=1))
log_processor = dict(window_size=1)
input_shape = ({size}, {size})
work_dir = '{work_dir}'
"""


def make_clips(folder: Path, num_train: int = 16, num_val: int = 8) -> Path:
    """Clips of 40x40 pixels and 6 frames in eight motions; returns their folder."""
    from dynperceiver_action.demo import DemoParams, make_demo_clips

    make_demo_clips(folder, DemoParams(seed=1, num_train=num_train, num_val=num_val, num_frames=6, size_px=40), progress=False)
    return folder


def write_config(path: Path, data: Path, more: str = '') -> Path:
    """Write a leaf config that inherits from the demo's by absolute path; results go beside it, into ``NAME_work``."""
    work_dir = path.parent / f'{path.stem}_work'
    path.write_text(CONFIG_TEXT.format(demo=DEMO_CONFIG, data=data, frames=NUM_FRAMES, size=SIZE, work_dir=work_dir) + more)
    return path


WITH_HOOK = """\
_base_ = ['{base}']
custom_imports = dict(imports=['dynperceiver_action', 'tiny_hooks'], allow_failed_imports=False)
custom_hooks = [*_base_.custom_hooks, dict({hook})]
"""


def write_hooked_config(path: Path, base: Path, hook: str) -> Path:
    """Write a config that adds a hook of ``tiny_hooks`` to another config."""
    path.write_text(WITH_HOOK.format(base=base, hook=hook))
    return path


def start(command: Sequence[str | Path], python: bool = True, cwd: Path = ROOT, **variables: str) -> subprocess.Popen[str]:
    """Start a script of this repository with this Python (or a shell script with ``python=False``), output captured.

    It computes with one thread, and finds this repository's packages and ``tests/helpers``.
    """
    paths = [*map(str, [Path(__file__).parent, *SOURCES]), *filter(None, [os.environ.get('PYTHONPATH')])]
    variables = {'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join(paths), 'PYTHON': sys.executable, **variables}
    words = [*([sys.executable] if python else []), *map(str, command)]
    return subprocess.Popen(
        words, cwd=cwd, env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str], code: int | None = 0, timeout_s: float = 300) -> tuple[str, str]:
    """Wait for a process of :func:`start` and check its exit code; returns what it printed, stdout and stderr."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f'{process.args} took more than {timeout_s} s\n{out[-3000:]}\n{err[-3000:]}') from None
    assert code is None or process.returncode == code, f'{process.args} ended with {process.returncode}\n{out[-3000:]}\n{err[-5000:]}'
    return out, err


def quick_runner(config: Path, work_dir: Path, hooks: Sequence[dict[str, Any]] | None = None, **changes: Any) -> Runner:
    """A runner within this process, without validation and without the config in its logs and checkpoints, whose layout takes seconds.

    Args:
        config: Config file.
        work_dir: Where results go.
        hooks: Custom hooks instead of the config's.
        changes: Arguments of the runner instead of the config's.
    """
    from mmengine.config import Config
    from mmengine.runner import Runner

    cfg = Config.fromfile(config)
    cfg.default_hooks.checkpoint.save_best = None
    names = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'default_hooks', 'custom_hooks', 'randomness')
    arguments: dict[str, Any] = {name: cfg[name] for name in (*names, 'env_cfg', 'log_processor', 'default_scope')}
    if hooks is not None:
        arguments['custom_hooks'] = list(hooks)
    return Runner(work_dir=str(work_dir), experiment_name=work_dir.name, **{**arguments, **changes})


def close_workers(runner: Runner) -> None:
    """End the persistent workers of a runner's training data now; the garbage collector would wait seconds for each."""
    iterator = runner.train_dataloader._iterator
    if iterator is not None:
        iterator._shutdown_workers()


def scalars(work_dir: Path) -> list[dict[str, Any]]:
    """Lines of the newest ``vis_data/scalars.json`` below a work dir."""
    newest = max(work_dir.glob('*/vis_data/scalars.json'), key=lambda path: path.parent.parent.name)
    return [json.loads(line) for line in newest.read_text().splitlines()]


def training_curve(work_dir: Path) -> dict[int, dict[str, float]]:
    """Step to losses, accuracies and gradient norm, of the newest run in a work dir."""
    lines = [line for line in scalars(work_dir) if 'loss' in line]
    return {line['step']: {key: value for key, value in line.items() if key not in ('time', 'data_time', 'memory')} for line in lines}


def event_tags(work_dir: Path) -> set[str]:
    """Names of all scalars in the TensorBoard event files below a work dir."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags: set[str] = set()
    for path in work_dir.rglob('events.out.tfevents.*'):
        tags |= set(EventAccumulator(str(path)).Reload().Tags()['scalars'])
    return tags


def result_of_test(work_dir: Path) -> dict[str, float]:
    """Accuracies of the one test in a work dir, without times."""
    (path,) = work_dir.glob('*/*.json')
    return {key: value for key, value in json.loads(path.read_text()).items() if 'time' not in key}
