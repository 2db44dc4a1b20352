"""Reading checkpoints: the authors' names, ours, and starting from an image checkpoint."""

from .convert import convert_from_reference, convert_to_reference, is_reference_state_dict, unwrap_checkpoint, weights_names
from .errors import CheckpointError
from .files import read_checkpoint_file, read_state_dict, read_weights, save_state_dict, unreadable_checkpoint
from .initializer import ImageCheckpoint, load_image_checkpoint, load_trunk_checkpoint
from .pretrained import PRETRAINED, PretrainedWeights, pretrained_file
from .trunk_names import TRUNK_NAMES, TrunkNames, convert_from_trunk, convert_to_trunk, find_trunk_names

__all__ = [
    'PRETRAINED',
    'TRUNK_NAMES',
    'CheckpointError',
    'ImageCheckpoint',
    'PretrainedWeights',
    'TrunkNames',
    'convert_from_reference',
    'convert_from_trunk',
    'convert_to_reference',
    'convert_to_trunk',
    'find_trunk_names',
    'is_reference_state_dict',
    'load_image_checkpoint',
    'load_trunk_checkpoint',
    'pretrained_file',
    'read_checkpoint_file',
    'read_state_dict',
    'read_weights',
    'save_state_dict',
    'unreadable_checkpoint',
    'unwrap_checkpoint',
    'weights_names',
]
