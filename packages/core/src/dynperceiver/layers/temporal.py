"""Temporal shift (TSM, Lin et al., ICCV 2019) for frames that run as images.

Shape suffixes: B rows (clips times frames, frames innermost), C channels, H/W feature size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynperceiver_runtime import UserError

__all__ = ['TemporalShift']

# The frames that stay of a clip, and zeros for the one that has gone (S clips, T frames, C, H, W; padding is listed from the last axis).
_ONE_EARLIER = (slice(1, None), (0, 0, 0, 0, 0, 0, 0, 1))
_ONE_LATER = (slice(None, -1), (0, 0, 0, 0, 0, 0, 1, 0))


class TemporalShift(nn.Module):
    """Move a part of the channels one frame along time, at no arithmetic cost; a clip's border frames get zeros.

    Args:
        num_frames: Frames per clip, T.
        fold_div: One ``fold_div``-th of the channels moves each way.
        bidirectional: Whether channels also move backwards in time (from the next frame to this one). Without it a frame only
            ever sees its past, as online use needs.

    Raises:
        UserError: If ``num_frames`` or ``fold_div`` is too small.
    """

    def __init__(self, num_frames: int, fold_div: int = 8, bidirectional: bool = True) -> None:
        super().__init__()
        if num_frames < 1:
            raise UserError(f'num_frames={num_frames}: a clip has at least one frame; pass the number that is sampled from a video')
        if fold_div < 2:
            raise UserError(f'fold_div={fold_div}: at most half of the channels can move each way; pass 2 or more (TSM uses 8)')
        self.num_frames = num_frames
        self.fold_div = fold_div
        self.bidirectional = bidirectional

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Shift a map (B, C, H, W), keeping its memory format.

        Raises:
            UserError: If B is not a multiple of ``num_frames``.
        """
        rows, channels = feature_BCHW.shape[:2]
        if rows % self.num_frames:
            raise UserError(
                f'{rows} frames are no whole number of clips of {self.num_frames} frames; sample {self.num_frames} frames per clip or '
                'build the model with the number of frames that the pipeline gives'
            )
        fold = channels // self.fold_div
        if not fold:
            return feature_BCHW
        # Split, pad and join, nothing written in place: a copy each way in training, and operators that exported graphs have.
        moves = [_ONE_EARLIER, _ONE_LATER] if self.bidirectional else [_ONE_LATER]
        *parts, rest_BCHW = feature_BCHW.split([fold] * len(moves) + [channels - fold * len(moves)], 1)
        moved = [self._move(part, *move) for part, move in zip(parts, moves, strict=True)]
        if not feature_BCHW.is_contiguous() and feature_BCHW.is_contiguous(memory_format=torch.channels_last):
            moved = [part.contiguous(memory_format=torch.channels_last) for part in moved]
        return torch.cat([*moved, rest_BCHW] if rest_BCHW.shape[1] else moved, 1)

    def _move(self, part_BCHW: Tensor, frames: slice, padding: tuple[int, ...]) -> Tensor:
        return F.pad(part_BCHW.unflatten(0, (-1, self.num_frames))[:, frames], padding).flatten(0, 1)

    def extra_repr(self) -> str:
        """The arguments, for ``print(model)``."""
        return f'num_frames={self.num_frames}, fold_div={self.fold_div}, bidirectional={self.bidirectional}'
