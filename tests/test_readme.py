"""What the README tells people to write works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import METRICS, MODELS, init_default_scope

README = Path(__file__).parents[1] / 'README.md'


def test_config_for_ones_own_project(tmp_path: Path) -> None:
    (block,) = [block for block in re.findall(r'```python\n(.*?)```', README.read_text(), re.DOTALL) if '_base_ = ' in block]
    (tmp_path / 'own.py').write_text(block)
    cfg = Config.fromfile(tmp_path / 'own.py')
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert sum(len(group['params']) for group in optimizer.param_groups) == len(list(model.parameters()))
    assert type(METRICS.build(cfg.val_evaluator)).__name__ == type(METRICS.build(cfg.test_evaluator)).__name__ == 'MultiExitAccuracy'
    frames = next(step.num_clips for step in cfg.train_dataloader.dataset.pipeline if step.type.endswith('SampleFrames'))
    assert frames == model.backbone.num_frames
    with torch.inference_mode():
        logits = model.eval()(torch.randn(1, frames, 3, 32, 32))
    assert len(logits) == 4
