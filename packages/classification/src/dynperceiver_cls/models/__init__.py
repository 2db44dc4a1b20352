"""The classifier and what prepares its batches."""

from .classifier import DynPerceiverClassifier
from .data_preprocessor import ClsDataPreprocessor

__all__ = ['ClsDataPreprocessor', 'DynPerceiverClassifier']
