"""Pictures of test samples with the predictions of all exits.

Shapes: H height, W width, 3 colours (RGB), E exits, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from numpy.typing import NDArray

from dynperceiver_runtime.files import make_folders, write_atomically

__all__ = ['DrawExitsHook', 'describe_exits', 'write_below']

LINE_PX = 16
FONT_SCALE = 0.45


def write_below(picture_HW3: NDArray[np.uint8], lines: Sequence[str]) -> NDArray[np.uint8]:
    """Put lines of text under a picture, which gets a white margin where they are wider.

    Returns:
        Picture of shape (H', W', 3).
    """
    import cv2

    font = cv2.FONT_HERSHEY_SIMPLEX
    widest_px = max((cv2.getTextSize(line, font, FONT_SCALE, 1)[0][0] for line in lines), default=0) + 10
    margin_px = max(0, widest_px - picture_HW3.shape[1])
    picture_HW3 = np.pad(picture_HW3, ((0, 0), (0, margin_px), (0, 0)), constant_values=255)
    text_HW3 = np.full((LINE_PX * len(lines) + 6, picture_HW3.shape[1], 3), 255, np.uint8)
    for number, line in enumerate(lines, 1):
        cv2.putText(text_HW3, line, (5, LINE_PX * number), font, FONT_SCALE, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([picture_HW3, text_HW3])


def describe_exits(sample: Any, classes: Sequence[str] | None) -> list[str]:
    """Lines with a sample's label, if it has one, and the prediction of every exit with its confidence.

    Args:
        sample: Data sample with ``exit_scores`` (E, K), or of a model without exits ``pred_score`` (K,).
        classes: Names in label order; None for numbers alone.
    """

    def name(label: int) -> str:
        return f'{label} {classes[label]}' if classes else f'class {label}'

    scores_EK = sample.exit_scores if 'exit_scores' in sample else sample.pred_score[None]
    lines = [f'label: {name(int(sample.gt_label))}'] if 'gt_label' in sample else []
    best = scores_EK.max(1)
    return lines + [
        f'exit {number}: {name(label)} ({score:.2f})'
        for number, (label, score) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True), 1)
    ]


class DrawExitsHook(Hook):
    """Draw test samples with their label and the predictions of all exits, for ``--show`` and ``--show-dir`` of ``tools/test.py``.

    A task derives from it and says how to :meth:`draw` its samples and how to name them (:meth:`names`).

    Args:
        enable: Whether to draw at all.
        interval: Draw every N-th sample of the test set.
        show: Whether to show each picture in a window.
        wait_time: Seconds to show each picture.
        out_dir: Folder for pictures, ``NUMBER_NAME.png``; None for none.
    """

    def __init__(
        self, enable: bool = False, interval: int = 1, show: bool = False, wait_time: float = 2.0, out_dir: str | None = None
    ) -> None:
        self.enable = enable
        self.interval = interval
        self.show = show
        self.wait_time = wait_time
        self.out_dir = out_dir
        self._num_seen = 0

    def names(self, sample: Any) -> tuple[str, str]:
        """A sample's title, and its name in the name of the picture's file."""
        raise NotImplementedError(f'{type(self).__name__} does not say how to name a sample; override names()')

    def draw(self, inputs: Any, lines: Sequence[str]) -> NDArray[np.uint8]:
        """Picture (H, W, 3) of one sample of a batch's ``inputs`` over lines of text."""
        raise NotImplementedError(f'{type(self).__name__} does not say how to draw a sample; override draw()')

    def before_test_epoch(self, runner: Runner) -> None:
        """Start counting the samples."""
        self._num_seen = 0

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None) -> None:
        """Draw the samples of a batch whose turn it is.

        Raises:
            FileError: If a picture cannot be written.
        """
        if not self.enable or not outputs:
            return
        dataset = runner.test_dataloader.dataset
        classes = dataset.metainfo.get('classes')
        for inputs, sample in zip(data_batch['inputs'], outputs, strict=True):
            # The sampler gives the samples to the ranks in turn.
            index = self._num_seen * get_world_size() + get_rank()
            self._num_seen += 1
            padding = isinstance(dataset, Sized) and index >= len(dataset)  # samples that come again so that every rank has as many
            if index % self.interval or padding:
                continue
            title, stem = self.names(sample)
            picture_HW3 = self.draw(inputs, [title, *describe_exits(sample, classes)])
            if self.out_dir is not None:
                _write(picture_HW3, Path(self.out_dir) / f'{index:06d}_{stem}.png')
            if self.show:
                runner.visualizer.show(picture_HW3, win_name=title, wait_time=self.wait_time)


def _write(picture_HW3: NDArray[np.uint8], path: Path) -> None:
    import cv2

    done, content = cv2.imencode('.png', cv2.cvtColor(picture_HW3, cv2.COLOR_RGB2BGR))
    assert done, 'any array of pixels can be a PNG file'
    make_folders(path.parent, 'folder of --show-dir')
    write_atomically(path, content.tobytes(), 'picture')
