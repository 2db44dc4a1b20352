"""Looking through the wrappers of a data set."""

from __future__ import annotations

from typing import Any

__all__ = ['innermost_datasets']


def innermost_datasets(dataset: Any) -> list[Any]:
    """Data sets inside wrappers such as ``ConcatDataset`` and ``RepeatDataset``, in order; a plain one alone.

    Args:
        dataset: A data set, or a wrapper that has others in ``datasets`` or ``dataset``.
    """
    if getattr(dataset, 'datasets', None):
        return [inner for part in dataset.datasets for inner in innermost_datasets(part)]
    inner = getattr(dataset, 'dataset', None)
    return [dataset] if inner is None else innermost_datasets(inner)
