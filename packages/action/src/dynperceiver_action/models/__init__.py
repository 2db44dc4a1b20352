"""Recognizers for mmaction2."""

from .recognizer import EarlyExitRecognizer

__all__ = ['EarlyExitRecognizer']
