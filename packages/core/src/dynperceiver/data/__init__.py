"""Data sets that name missing data, skip or refuse broken files and hold a part out from training; folders of generated data."""

from .bad_samples import BadSampleError, BadSampleMixin, DatasetError
from .faults import Fault, Reason
from .generated import is_generated, load_digits, make_folder
from .held_out_part import PARTS, SPLIT_SETTINGS, HeldOutPartMixin, split_records
from .images import diagnose_image, first_line, jpeg_looks_cut
from .splits import digest_of_samples, last_of_each_class, split_held_out
from .texts import in_words
from .wrappers import innermost_datasets

__all__ = [
    'PARTS',
    'SPLIT_SETTINGS',
    'BadSampleError',
    'BadSampleMixin',
    'DatasetError',
    'Fault',
    'HeldOutPartMixin',
    'Reason',
    'diagnose_image',
    'digest_of_samples',
    'first_line',
    'in_words',
    'innermost_datasets',
    'is_generated',
    'jpeg_looks_cut',
    'last_of_each_class',
    'load_digits',
    'make_folder',
    'split_held_out',
    'split_records',
]
