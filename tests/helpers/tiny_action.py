"""A training on clips so small that it takes seconds: data and config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tool_runs import ROOT

DEMO_CONFIG = ROOT / 'configs' / 'action' / 'tsm_dynperceiver_demo.py'
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
train_cfg = dict(max_epochs=2)
default_hooks = dict(logger=dict(interval=1))
log_processor = dict(window_size=1)
input_shape = ({size}, {size})
work_dir = '{work_dir}'
"""


def make_clips(folder: Path, num_train: int = 8, num_val: int = 8) -> Path:
    """Clips of 40x40 pixels and 6 frames in eight motions; returns their folder."""
    from dynperceiver_action.demo import DemoParams, make_demo_clips

    make_demo_clips(folder, DemoParams(seed=1, num_train=num_train, num_val=num_val, num_frames=6, size_px=40), progress=False)
    return folder


def write_config(path: Path, data: Path, more: str = '') -> Path:
    """Write a leaf config that inherits from the demo's by absolute path; results go beside it, into ``NAME_work``."""
    work_dir = path.parent / f'{path.stem}_work'
    path.write_text(CONFIG_TEXT.format(demo=DEMO_CONFIG, data=data, frames=NUM_FRAMES, size=SIZE, work_dir=work_dir) + more)
    return path
