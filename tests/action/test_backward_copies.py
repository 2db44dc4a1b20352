"""Each clip of a training batch forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from mmaction.structures import ActionDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from tiny_action import DEMO_CONFIG

from dynperceiver_action.demo import MOTIONS
from dynperceiver_action.models import BackwardCopies
from dynperceiver_runtime import UsageError


def samples(*labels: int | list[int]) -> list[ActionDataSample]:
    return [ActionDataSample(metainfo=dict(filename=f'{number}.mp4')).set_gt_label(label) for number, label in enumerate(labels)]


def test_clips_follow_forwards_and_backwards() -> None:
    clips = torch.randn(3, 4, 3, 2, 2)
    given = samples(0, 1, 5)
    inputs, out = BackwardCopies({0: 1, 1: 0})(clips, given)
    assert inputs.shape == (6, 4, 3, 2, 2) and torch.equal(inputs[:3], clips)
    for number in range(3):
        for frame in range(4):
            assert torch.equal(inputs[3 + number, frame], clips[number, 3 - frame])
    assert [sample.gt_label.tolist() for sample in out] == [[0], [1], [5], [1], [0], [5]]
    assert [sample.filename for sample in out] == ['0.mp4', '1.mp4', '2.mp4'] * 2
    assert [sample.gt_label.tolist() for sample in given] == [[0], [1], [5]] and all(a is b for a, b in zip(out, given, strict=False))
    assert repr(BackwardCopies({0: 1})) == 'BackwardCopies(label_map={0: 1})'


def test_what_it_cannot_play_backwards_is_refused() -> None:
    with pytest.raises(UsageError, match=r"shape \(2, 3, 4, 4\), but expects \(clips, .* FormatShape\(input_format='NCHW'\)"):
        BackwardCopies()(torch.randn(2, 3, 4, 4), samples(0, 1))
    with pytest.raises(UsageError, match='a label of 3 numbers, but needs one class number per clip; leave multi_class'):
        BackwardCopies()(torch.randn(1, 2, 3, 4, 4), samples([0, 1, 0]))


def test_the_demo_trains_on_opposites_and_is_tested_as_it_is() -> None:
    """Every motion backwards is another one, and backwards again itself; also where another project's default scope looks for names."""
    cfg = Config.fromfile(DEMO_CONFIG)
    with DefaultScope.overwrite_default_scope('mmdet'):
        preprocessor = MODELS.build(cfg.model.data_preprocessor)
    data = dict(inputs=[torch.zeros(8, 3, 4, 4, dtype=torch.uint8)] * 8, data_samples=samples(*range(8)))
    assert preprocessor(dict(data), training=False)['inputs'].shape == (8, 8, 3, 4, 4)
    batch = preprocessor(dict(data), training=True)
    assert batch['inputs'].shape == (16, 8, 3, 4, 4)
    backwards = [MOTIONS[int(sample.gt_label)] for sample in batch['data_samples'][8:]]
    assert MOTIONS == ('left', 'right', 'up', 'down', 'clockwise', 'anticlockwise', 'grow', 'shrink')
    assert backwards == ['right', 'left', 'down', 'up', 'anticlockwise', 'clockwise', 'shrink', 'grow']
