"""Reading checkpoints: the authors' names, ours, and starting from an image checkpoint."""

from .convert import convert_from_reference, convert_to_reference, is_reference_state_dict, unwrap_checkpoint
from .files import read_checkpoint_file, read_state_dict, save_state_dict
from .initializer import ImageCheckpoint, load_image_checkpoint

__all__ = [
    'ImageCheckpoint',
    'convert_from_reference',
    'convert_to_reference',
    'is_reference_state_dict',
    'load_image_checkpoint',
    'read_checkpoint_file',
    'read_state_dict',
    'save_state_dict',
    'unwrap_checkpoint',
]
