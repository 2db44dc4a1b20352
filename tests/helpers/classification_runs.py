"""Runs of the tools on tiny digits."""

from __future__ import annotations

from pathlib import Path

from tool_runs import ROOT, TaskRuns

__all__ = ['CLASSES', 'ClassificationRuns', 'make_digits', 'write_classification_config']

SIZE = 32
NAMES = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
CLASSES = tuple(sorted(NAMES))

# Everything that is random in a real recipe is on: crops, dropout, stochastic depth, erasing and mixing on the batch. So is the averaging
# of the weights.
CONFIG_TEXT = """\
_base_ = ['{demo}']
data_root = '{data}'
train_pipeline = [dict(step, size={size}, padding=4) if 'size' in step else step for step in _base_.train_pipeline]
model = dict(
    backbone=dict(width=0.125, num_latents=16, dropout=0.3, drop_path=0.3),
    data_preprocessor=dict(
        after_norm=[dict(type='dynperceiver_cls.RandomErasing', prob=0.5)],
        mixing=dict(type='dynperceiver_cls.MixupCutmix', num_classes=10)))
train_dataloader = dict(batch_size=4, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, class_folder='train'))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2)
default_hooks = dict(logger=dict(interval=1))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='mmengine.EMAHook', ema_type='mmengine.ExponentialMovingAverage', momentum=1e-4, update_buffers=True),
    dict(type='dynperceiver.SyncAveragedBuffersHook'),
]
log_processor = dict(window_size=1)
input_shape = ({size}, {size})
work_dir = '{work_dir}'
"""


def make_digits(folder: Path, num_train: int = 16, num_val: int = 11) -> Path:
    """The demo's digits at 32x32 pixels in folders named by words, which checkpoints keep as names; returns their folder."""
    from dynperceiver_cls.demo import DemoParams, make_demo_images

    make_demo_images(folder, DemoParams(seed=1, num_train=num_train, num_val=num_val, size_px=SIZE), progress=False)
    for split in ('train', 'val'):
        for digit, name in enumerate(NAMES):
            (folder / split / str(digit)).rename(folder / split / name)
    return folder


def write_classification_config(path: Path, data: Path, more: str = '') -> Path:
    """Write a leaf config that inherits from the demo's by absolute path; results go beside it, into ``NAME_work``."""
    demo, work_dir = ROOT / 'configs' / 'classification' / 'dynperceiver_demo.py', path.parent / f'{path.stem}_work'
    path.write_text(CONFIG_TEXT.format(demo=demo, data=data, size=SIZE, work_dir=work_dir) + more)
    return path


class ClassificationRuns(TaskRuns):
    """The runs.

    Attributes:
        data: The images: 12 to train on, 11 to test on (an odd number, which two processes cannot share evenly).
        config: Leaf config: two epochs of three iterations.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.data = make_digits(folder / 'data', num_train=12)
        self.config = write_classification_config(folder / 'tiny.py', self.data)
