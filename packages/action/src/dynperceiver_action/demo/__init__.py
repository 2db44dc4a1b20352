"""The embedded demo data: short clips of handwritten digits in eight motions that no single frame tells apart."""

from .clips import DemoParams, digit_split, is_complete, make_demo_clips, write_overview, write_video
from .motions import MOTIONS, Pose, pose_path
from .render import ClipSpec, draw_clip_spec, load_digit_images, render_clip, render_ground

__all__ = [
    'MOTIONS',
    'ClipSpec',
    'DemoParams',
    'Pose',
    'digit_split',
    'draw_clip_spec',
    'is_complete',
    'load_digit_images',
    'make_demo_clips',
    'pose_path',
    'render_clip',
    'render_ground',
    'write_overview',
    'write_video',
]
