"""Data sets that name missing data, skip broken files in training and refuse them in testing."""

from .bad_samples import BadSampleError, BadSampleMixin
from .faults import Fault, Reason
from .images import diagnose_image, first_line, jpeg_looks_cut

__all__ = ['BadSampleError', 'BadSampleMixin', 'Fault', 'Reason', 'diagnose_image', 'first_line', 'jpeg_looks_cut']
