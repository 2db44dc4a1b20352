"""Pictures of test clips with what every exit says of them.

Shapes: T frames, H height, W width, C = 3 colours (RGB), E exits, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from numpy.typing import NDArray

from ..registry import HOOKS

__all__ = ['DrawPredictionsHook', 'draw_clip']

_LINE_PX = 16


def draw_clip(frames_THWC: NDArray[np.uint8], lines: Sequence[str], max_frames: int = 8) -> NDArray[np.uint8]:
    """Draw a clip as a strip of frames over lines of text.

    Args:
        frames_THWC: Frames, RGB.
        lines: Text.
        max_frames: Frames to show, spread evenly over the clip.

    Returns:
        RGB picture of shape (H', W', 3).
    """
    shown = np.linspace(0, len(frames_THWC) - 1, min(max_frames, len(frames_THWC))).round().astype(int)
    strip_HWC = np.concatenate(list(frames_THWC[shown]), axis=1)
    widest_px = max((cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0] for line in lines), default=0) + 10
    strip_HWC = np.pad(strip_HWC, ((0, 0), (0, max(0, widest_px - strip_HWC.shape[1])), (0, 0)), constant_values=255)
    text_HWC = np.full((_LINE_PX * len(lines) + 6, strip_HWC.shape[1], 3), 255, np.uint8)
    for number, line in enumerate(lines, 1):
        cv2.putText(text_HWC, line, (5, _LINE_PX * number), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip_HWC, text_HWC])


@HOOKS.register_module()
class DrawPredictionsHook(Hook):
    """Draw test clips with their label and every exit's answer; ``--show`` and ``--show-dir`` of ``tools/test.py`` switch it on.

    mmaction2 1.2.0's own ``VisualizationHook`` cannot be used: it passes arguments that its visualizer does not take.

    Args:
        enable: Whether to draw at all.
        interval: Draw every so many clips of the test set.
        show: Whether to show each picture in a window.
        wait_time: Seconds that a window stays.
        out_dir: Folder for pictures, ``NUMBER_NAME.png``; None for none.
        max_frames: Frames to show of a clip.
    """

    def __init__(
        self,
        enable: bool = False,
        interval: int = 1,
        show: bool = False,
        wait_time: float = 2.0,
        out_dir: str | None = None,
        max_frames: int = 8,
    ) -> None:
        self.enable = enable
        self.interval = interval
        self.show = show
        self.wait_time = wait_time
        self.out_dir = out_dir
        self.max_frames = max_frames
        self._num_seen = 0

    def before_test_epoch(self, runner: Runner) -> None:
        """Start counting the clips."""
        self._num_seen = 0

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None) -> None:
        """Draw the clips of a batch whose turn it is."""
        if not self.enable or not outputs:
            return
        classes = runner.test_dataloader.dataset.metainfo.get('classes')
        for frames_TCHW, sample in zip(data_batch['inputs'], outputs, strict=True):
            # The sampler deals the test set out to the ranks like cards.
            index = self._num_seen * get_world_size() + get_rank()
            self._num_seen += 1
            if index % self.interval:
                continue
            frames_THWC = frames_TCHW.permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8)
            source = Path(str(sample.get('filename') or sample.get('frame_dir') or 'clip'))
            picture = draw_clip(frames_THWC, [source.name, *_describe(sample, classes)], self.max_frames)
            if self.out_dir is not None:
                os.makedirs(self.out_dir, exist_ok=True)
                path = os.path.join(self.out_dir, f'{index:06d}_{source.stem}.png')
                if not cv2.imwrite(path, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
                    raise OSError(f'{path} cannot be written; check that the folder of --show-dir is writable')
            if self.show:
                runner.visualizer.show(picture, win_name=source.name, wait_time=self.wait_time)


def _describe(sample: Any, classes: Sequence[str] | None) -> list[str]:
    def name(label: int) -> str:
        return f'{label} {classes[label]}' if classes else f'class {label}'

    scores_EK = sample.exit_scores if 'exit_scores' in sample else sample.pred_score[None]
    lines = [f'label: {name(int(sample.gt_label))}'] if 'gt_label' in sample else []
    best = scores_EK.max(1)
    return lines + [
        f'exit {number}: {name(label)} ({score:.2f})'
        for number, (label, score) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True), 1)
    ]
