"""Temporal shift (TSM, Lin et al., ICCV 2019) for frames that run as images.

Shape suffixes: B rows (clips times frames, frames innermost), C channels, H/W feature size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynperceiver_runtime import UserError

__all__ = ['TemporalShift']


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
        source = torch.unflatten(feature_BCHW, 0, (-1, self.num_frames))
        if torch.compiler.is_exporting():
            return self._join_slices(source, fold).flatten(0, 1)
        output_BCHW = feature_BCHW.clone()
        target = torch.unflatten(output_BCHW, 0, (-1, self.num_frames))
        first = 0
        if self.bidirectional:
            target[:, :-1, :fold] = source[:, 1:, :fold]
            target[:, -1, :fold] = 0
            first = fold
        target[:, 1:, first : first + fold] = source[:, :-1, first : first + fold]
        target[:, 0, first : first + fold] = 0
        return output_BCHW

    def _join_slices(self, source_STCHW: Tensor, fold: int) -> Tensor:
        """The shift without writing in place, which graphs have no operator for but scattering."""
        if not fold:
            return source_STCHW
        last, first = (0, 0, 0, 0, 0, 0, 0, 1), (0, 0, 0, 0, 0, 0, 1, 0)
        parts = [F.pad(source_STCHW[:, 1:, :fold], last)] if self.bidirectional else []
        moved = fold * len(parts)
        parts += [F.pad(source_STCHW[:, :-1, moved : moved + fold], first), source_STCHW[:, :, moved + fold :]]
        return torch.cat(parts, 2)

    def extra_repr(self) -> str:
        """The arguments, for ``print(model)``."""
        return f'num_frames={self.num_frames}, fold_div={self.fold_div}, bidirectional={self.bidirectional}'
