"""The eight motions of the demo clips, as walks on a four-dimensional torus.

What a frame shows of the digit is a point with four cyclic coordinates: horizontal and vertical position, orientation and log-size. A
motion class walks along one coordinate in one direction and leaves the other three alone. The start is uniform on the torus, so every frame
of every class is uniform on it too: seen alone, no frame says anything about its class, and the best possible single-frame classifier is at
chance. Reversing time turns a class into its opposite.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dynperceiver_runtime import UserError

__all__ = ['MOTIONS', 'Pose', 'pose_path']

# name -> (coordinate of the torus, direction). The order is the order of the labels.
_STEPS: dict[str, tuple[int, int]] = {
    'left': (0, -1),
    'right': (0, +1),
    'up': (1, -1),
    'down': (1, +1),
    'clockwise': (2, +1),
    'anticlockwise': (2, -1),
    'grow': (3, +1),
    'shrink': (3, -1),
}

MOTIONS: tuple[str, ...] = tuple(_STEPS)
"""Names of the motion classes; a class's label is its place in this tuple."""


@dataclass(frozen=True)
class Pose:
    """Where the digit is in one frame, each coordinate cyclic in [0, 1).

    Attributes:
        x: Centre, as a fraction of the frame's width, from the left edge. What leaves on one side comes in on the other.
        y: Centre, as a fraction of the frame's height, from the top edge.
        turn: Orientation, as a fraction of a full turn, clockwise on the screen.
        size: Size, 0 for the smallest and towards 1 for the largest, logarithmic in pixels; after the largest comes the smallest again.
    """

    x: float
    y: float
    turn: float
    size: float


def pose_path(motion: str, start: Pose, cycles: float, num_frames: int) -> list[Pose]:
    """Follow one motion from a start pose.

    Args:
        motion: One of :data:`MOTIONS`.
        start: Pose in the first frame.
        cycles: Way from the first to the last frame, in rounds of the coordinate that moves (1.0: once across the frame, one full turn,
            or once through all sizes).
        num_frames: Number of frames of the clip.

    Returns:
        The pose in every frame.

    Raises:
        UserError: If the motion is unknown or there are fewer than two frames.
    """
    if motion not in _STEPS:
        raise UserError(f'motion={motion!r} is unknown; it must be one of {", ".join(MOTIONS)}.')
    if num_frames < 2:
        raise UserError(f'num_frames={num_frames}: a motion needs at least 2 frames; pass num_frames >= 2.')
    axis, sign = _STEPS[motion]
    points = np.tile([start.x, start.y, start.turn, start.size], (num_frames, 1))
    points[:, axis] += sign * np.linspace(0.0, cycles, num_frames)
    return [Pose(*point) for point in np.mod(points, 1.0).tolist()]
