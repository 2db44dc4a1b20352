"""Writing pictures."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ['load_pyplot', 'save_figure']


def load_pyplot() -> ModuleType:
    """matplotlib's pyplot, drawing into memory; it is imported only where a picture is made."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    return pyplot


def save_figure(figure: Any, path: str | Path, dpi: int = 140) -> None:
    """Write a figure, whole or not at all, and close it.

    Args:
        figure: matplotlib's figure.
        path: Picture to write; its folder is made, its ending says the format.
        dpi: Pixels per inch.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.partial-{path.name}')
    try:
        figure.savefig(partial, dpi=dpi)
    finally:
        load_pyplot().close(figure)
    os.replace(partial, path)
