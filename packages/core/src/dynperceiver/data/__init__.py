"""Data sets that name missing data, skip broken files in training and refuse them in testing; folders of generated data."""

from .bad_samples import BadSampleError, BadSampleMixin, DatasetError
from .faults import Fault, Reason
from .generated import is_generated, load_digits, make_folder
from .images import diagnose_image, first_line, jpeg_looks_cut
from .wrappers import innermost_datasets

__all__ = [
    'BadSampleError',
    'BadSampleMixin',
    'DatasetError',
    'Fault',
    'Reason',
    'diagnose_image',
    'first_line',
    'innermost_datasets',
    'is_generated',
    'jpeg_looks_cut',
    'load_digits',
    'make_folder',
]
