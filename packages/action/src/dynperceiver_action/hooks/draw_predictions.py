"""Pictures of test clips with what every exit says of them.

Shapes: T frames, H height, W width, C = 3 colours (RGB).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dynperceiver.hooks import DrawExitsHook, write_below

from ..registry import HOOKS

__all__ = ['DrawPredictionsHook', 'draw_clip']


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
    return write_below(np.concatenate(list(frames_THWC[shown]), axis=1), lines)


@HOOKS.register_module()
class DrawPredictionsHook(DrawExitsHook):
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
        super().__init__(enable, interval, show, wait_time, out_dir)
        self.max_frames = max_frames

    def names(self, sample: Any) -> tuple[str, str]:
        """Name of the video's file or folder of frames, and the same without its ending."""
        source = Path(str(sample.get('filename') or sample.get('frame_dir') or 'clip'))
        return source.name, source.stem

    def draw(self, inputs: Tensor, lines: Sequence[str]) -> NDArray[np.uint8]:
        """A strip of the frames, of shape (T, C, H, W), over the lines."""
        frames_THWC = inputs.permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8)
        return draw_clip(frames_THWC, lines, self.max_frames)
