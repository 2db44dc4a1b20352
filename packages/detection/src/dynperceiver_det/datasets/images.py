"""Says which image files lack, and what is wrong with one."""

from __future__ import annotations

import os
import os.path as osp
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from dynperceiver.data import Fault, Reason, diagnose_image

__all__ = ['diagnose_photo', 'missing_files']

_EXIF_ORIENTATION = 0x0112


def missing_files(paths: Sequence[str]) -> list[int]:
    """Find the paths that lead to no file, by listing each folder once.

    Args:
        paths: Paths on this machine.

    Returns:
        Positions of the missing ones.
    """
    listings: dict[str, set[str]] = {}
    missing = []
    for i, path in enumerate(paths):
        folder, name = osp.split(path)
        if folder not in listings:
            listings[folder] = _listing(folder)
        # A second look, because names may differ from the listing's where letters' case does not count.
        if name not in listings[folder] and not osp.isfile(path):
            missing.append(i)
    return missing


def _listing(folder: str) -> set[str]:
    try:
        with os.scandir(folder or '.') as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()


def diagnose_photo(path: str, width: int, height: int, decoded_size: tuple[int, int] | None = None) -> Fault | None:
    """Say what is wrong with an image file, if anything.

    Args:
        path: The image file.
        width: Its width according to the annotations, in pixels.
        height: Its height according to the annotations, in pixels.
        decoded_size: Width and height of what the pipeline decoded, if it did. By default OpenCV turns photos as EXIF says.

    Returns:
        The fault, or None if the image decodes completely and has that size.
    """
    seen: dict[str, tuple[int, int] | int] = {}

    def decode(path: str) -> None:
        # Unlike OpenCV, some versions of which fill up what is missing with grey, Pillow refuses an image that is cut off.
        with Image.open(path) as image:
            image.load()
            seen.update(size=image.size, orientation=image.getexif().get(_EXIF_ORIENTATION, 1))

    fault = diagnose_image(path, decode)
    if fault is not None:
        return fault
    stored, orientation = seen['size'], seen['orientation']
    turned = stored[::-1] if orientation in (5, 6, 7, 8) else stored
    size = decoded_size if decoded_size in (stored, turned) else turned
    if size == (width, height):
        return None
    fault = Fault(
        path,
        Reason.OTHER_SIZE,
        f'{size[0]} x {size[1]} pixels as decoded, but {width} x {height} in the annotations',
        'correct its width and height and its boxes, or put back the image that was annotated',
    )
    if (width, height) == stored != turned:
        return replace(
            fault,
            detail=f'{fault.detail}; its EXIF orientation {orientation} turns it, and the annotations were made without that',
            remedy="load images with LoadImageFromFile(color_type='color_ignore_orientation'), save it without EXIF orientation",
        )
    if (width, height) == size[::-1]:
        return replace(fault, detail=f'{fault.detail}; width and height are swapped, as happens to photos that EXIF turns')
    return fault
