"""Writing pictures."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from dynperceiver_runtime import UserError
from dynperceiver_runtime.files import make_folders, replacing

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

    Raises:
        UserError: If there is no format of that ending.
        FileError: If the picture cannot be written.
    """
    path = Path(path)
    try:
        known = figure.canvas.get_supported_filetypes()
        ending = path.suffix.removeprefix('.').lower()
        if ending not in known:
            raise UserError(f'picture {path}: its ending must be one of {", ".join(sorted(known))}, which says the format')
        make_folders(path.parent)
        with replacing(path, 'picture') as partial:
            figure.savefig(partial, dpi=dpi, format=ending)
    finally:
        load_pyplot().close(figure)
