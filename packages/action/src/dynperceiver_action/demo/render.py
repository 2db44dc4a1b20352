"""Pictures of the demo clips: a handwritten digit over textured ground.

Shapes: T frames, H height, W width, C = 3 colours (RGB, uint8 in results, float32 in 0..255 on the way).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dynperceiver.data import load_digits

from .motions import MOTIONS, Pose, pose_path

__all__ = ['ClipSpec', 'draw_clip_spec', 'load_digit_images', 'render_clip', 'render_ground']

# Digit heights relative to the frame, so that the smallest is legible and the largest does not meet itself at the wrap.
_MIN_SIZE, _MAX_SIZE = 0.25, 0.75
# Mean way of each motion in rounds of its coordinate, chosen for steps between frames that are alike in pixels. No single frame shows it.
_CYCLES = dict.fromkeys(MOTIONS, 0.8) | dict(grow=1.3, shrink=1.3)
# The 8x8 scans are enlarged by this factor before they are warped, inside an empty margin that keeps border pixels smooth.
_ENLARGE, _MARGIN = 6, 1


@dataclass(frozen=True)
class ClipSpec:
    """All that decides what a clip shows. None of it but ``motion`` depends on the class.

    Attributes:
        motion: One of :data:`~dynperceiver_action.demo.MOTIONS`.
        digit: Index of the handwritten digit's picture.
        start: Pose in the first frame.
        cycles: Way from first to last frame in rounds of the moving coordinate.
        colours: RGB at the top and at the bottom of the digit, 0..255; they turn with it.
        opacity: How much of the ground the digit covers, in (0, 1].
        ground_tint: Gain of the ground per colour channel.
        negative: Whether the finished clip is inverted (dark digit on light ground).
        ground_seed: Seed of the ground's noise.
    """

    motion: str
    digit: int
    start: Pose
    cycles: float
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]
    opacity: float
    ground_tint: tuple[float, float, float]
    negative: bool
    ground_seed: int


def load_digit_images() -> NDArray[np.float32]:
    """Load scikit-learn's 1,797 handwritten digits (UCI, 8x8 pixels; shipped with scikit-learn, no download).

    Returns:
        Array of shape (1797, 8, 8), values in [0, 1].

    Raises:
        MissingPackageError: If scikit-learn is not installed.
    """
    return (load_digits().images / 16.0).astype(np.float32)


def draw_clip_spec(rng: np.random.Generator, motion: str, digits: Sequence[int]) -> ClipSpec:
    """Draw everything about a clip that its motion class leaves open.

    The draws do not look at ``motion``: the same generator state gives the same clip in another motion.

    Args:
        rng: Random generator; its state advances.
        motion: Motion class.
        digits: Indices of the digit pictures to choose from.

    Returns:
        The clip's description.
    """
    x, y, turn, size = rng.random(4).tolist()
    top, bottom = rng.uniform(140, 255, (2, 3)).tolist()
    return ClipSpec(
        motion=motion,
        digit=digits[int(rng.integers(len(digits)))],
        start=Pose(x, y, turn, size),
        cycles=_CYCLES[motion] * rng.uniform(0.8, 1.2),
        colours=(tuple(top), tuple(bottom)),
        opacity=rng.uniform(0.75, 1.0),
        ground_tint=tuple(rng.uniform(0.7, 1.0, 3).tolist()),
        negative=bool(rng.random() < 0.5),
        ground_seed=int(rng.integers(2**31)),
    )


def render_ground(seed: int, size_px: int) -> NDArray[np.float32]:
    """Make grey textured ground from noise of several scales.

    Args:
        seed: Seed of the noise.
        size_px: Height and width.

    Returns:
        Array of shape (H, W), about 30..110.
    """
    rng = np.random.default_rng(seed)
    ground = np.zeros((size_px, size_px), np.float32)
    for cells, amplitude in ((3, 18.0), (7, 12.0), (15, 8.0), (size_px // 2, 4.0)):
        noise = rng.standard_normal((cells, cells)).astype(np.float32)
        ground += amplitude * cv2.resize(noise, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
    return np.clip(70.0 + ground, 10.0, 120.0)


def render_clip(spec: ClipSpec, digit_images: NDArray[np.float32], num_frames: int, size_px: int) -> NDArray[np.uint8]:
    """Render a clip.

    Args:
        spec: What to show.
        digit_images: The pictures of :func:`load_digit_images`.
        num_frames: Number of frames T.
        size_px: Height and width of the frames.

    Returns:
        Frames of shape (T, H, W, 3), RGB.
    """
    ground_HWC = render_ground(spec.ground_seed, size_px)[:, :, None] * np.asarray(spec.ground_tint, np.float32)
    digit = _enlarge(digit_images[spec.digit])
    poses = pose_path(spec.motion, spec.start, spec.cycles, num_frames)
    frames = np.stack([_draw_digit(ground_HWC, digit, pose, spec) for pose in poses])
    pixels = np.clip(np.rint(frames), 0, 255).astype(np.uint8)
    return 255 - pixels if spec.negative else pixels


def _enlarge(image: NDArray[np.float32]) -> NDArray[np.float32]:
    padded = np.pad(image, _MARGIN)
    size = padded.shape[0] * _ENLARGE
    return np.clip(cv2.resize(padded, (size, size), interpolation=cv2.INTER_CUBIC), 0.0, 1.0)


def _draw_digit(ground_HWC: NDArray[np.float32], digit: NDArray[np.float32], pose: Pose, spec: ClipSpec) -> NDArray[np.float32]:
    size_px = ground_HWC.shape[0]
    # From pixels of the frame (shortest way round the torus) back to the digit's own axes, where its scan spans [-0.5, 0.5].
    pixels = np.arange(size_px, dtype=np.float32) + 0.5
    dx = np.mod(pixels - pose.x * size_px + size_px / 2, size_px)[None, :] - size_px / 2
    dy = np.mod(pixels - pose.y * size_px + size_px / 2, size_px)[:, None] - size_px / 2
    height_px = size_px * _MIN_SIZE * (_MAX_SIZE / _MIN_SIZE) ** pose.size
    angle = 2 * np.pi * pose.turn
    cos, sin = np.cos(angle) / height_px, np.sin(angle) / height_px
    u = (dx * cos + dy * sin).astype(np.float32)
    v = (dy * cos - dx * sin).astype(np.float32)
    scan_px, centre = 8 * _ENLARGE, digit.shape[0] / 2 - 0.5
    ink = cv2.remap(digit, u * scan_px + centre, v * scan_px + centre, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    alpha = (spec.opacity * np.clip(1.3 * ink, 0.0, 1.0))[:, :, None]
    top, bottom = np.asarray(spec.colours, np.float32)
    mix = np.clip(v + 0.5, 0.0, 1.0)[:, :, None]
    return ground_HWC * (1 - alpha) + ((1 - mix) * top + mix * bottom) * alpha
