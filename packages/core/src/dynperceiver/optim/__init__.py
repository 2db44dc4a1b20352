"""Optimizer wrappers' constructors."""

from .constructor import GroupedOptimWrapperConstructor

__all__ = ['GroupedOptimWrapperConstructor']
