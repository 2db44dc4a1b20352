"""Reading checkpoints: the authors' names, ours, and starting from an image checkpoint."""

from .convert import convert_from_reference, convert_to_reference, is_reference_state_dict, unwrap_checkpoint, weights_names
from .files import CheckpointError, read_checkpoint_file, read_state_dict, save_state_dict, unreadable_checkpoint
from .initializer import ImageCheckpoint, load_image_checkpoint

__all__ = [
    'CheckpointError',
    'ImageCheckpoint',
    'convert_from_reference',
    'convert_to_reference',
    'is_reference_state_dict',
    'load_image_checkpoint',
    'read_checkpoint_file',
    'read_state_dict',
    'save_state_dict',
    'unreadable_checkpoint',
    'unwrap_checkpoint',
    'weights_names',
]
