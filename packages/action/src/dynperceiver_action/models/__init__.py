"""Recognizers for mmaction2, and what happens to their batches."""

from .backward_copies import BackwardCopies
from .recognizer import EarlyExitRecognizer

__all__ = ['BackwardCopies', 'EarlyExitRecognizer']
