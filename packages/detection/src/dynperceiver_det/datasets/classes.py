"""Compares the categories of a COCO file with the classes of a config."""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Sequence

from mmengine.logging import print_log

from dynperceiver_runtime import UserError

from .records import Records, in_words

__all__ = ['check_classes']


def check_classes(categories: Records, classes: Sequence[str], category_ids: Sequence[int | str]) -> None:
    """Require every class to be a category of the file, in the file's order.

    MMDetection finds categories by name but numbers labels in the file's order, and so does its metric. With a class missing, or in
    another order, labels would not mean what ``metainfo`` says.

    Args:
        categories: With column ``name``.
        classes: ``metainfo['classes']``.
        category_ids: Category of every annotation.

    Raises:
        UserError: If a class is not in the file or occurs twice, or the order differs.
    """
    file = categories.file
    if isinstance(classes, str) or not classes or len(set(classes)) < len(classes):
        raise UserError(
            f"metainfo['classes'] is {classes!r}, but must be a tuple of different names; write metainfo=dict(classes=('name',)), "
            f'with a comma even if there is only one.{_paste(categories)}'
        )
    names, wanted = categories['name'], set(classes)
    missing = [name for name in classes if name not in set(names)]
    if missing:
        close = {name: difflib.get_close_matches(name, set(names) - wanted, n=1, cutoff=0.6) for name in missing[:20]}
        near = [f'{name!r} resembles {match[0]!r}' for name, match in close.items() if match]
        which = f'{len(missing)} of {len(classes)} classes' if len(missing) < len(classes) else f'none of the {len(classes)} classes'
        raise UserError(
            f"Every class of metainfo['classes'] must be a category of {file}, but "
            + (f'it has {which}' if len(missing) == len(classes) else f'it lacks {which}: {in_words(list(map(repr, missing)), 20)}')
            + (f'; {in_words(near)}' if near else '')
            + f'. Correct the names, or add the categories to the file (they need no boxes).{_paste(categories)}'
        )
    used = [name for name in names if name in wanted]
    if len(set(used)) < len(used):
        repeated = [name for name, count in Counter(used).items() if count > 1]
        raise UserError(
            f'{file}: names of categories must be unique, but {in_words(list(map(repr, repeated)))} occur more than once; merge them.'
        )
    differing = [(mine, its) for mine, its in zip(classes, used, strict=True) if mine != its]
    if differing:
        raise UserError(
            f"metainfo['classes'] must have the order of the categories of {file}, because MMDetection numbers labels in that order, but "
            + ' and '.join(f'{mine!r} stands where the file has {its!r}' for mine, its in differing[:2])
            + f'. Every file of a training needs the same order.{_paste(categories, used)}'
        )
    others = {i: name for i, name in zip(categories['id'], names, strict=True) if name not in wanted}
    if others:
        num_boxes = sum(map(others.__contains__, category_ids))
        print_log(
            f"{file}: {len(others)} categories are not in metainfo['classes'], and {num_boxes} of {len(category_ids)} boxes are left out "
            f'with them: {in_words(list(others.values()), 20)}.',
            logger='current',
            level=logging.WARNING,
        )


def _paste(categories: Records, names: Sequence[str] | None = None) -> str:
    names = list(dict.fromkeys(categories['name'])) if names is None else names
    if not names:
        return ' The file has no categories.'
    if len(names) > 100:
        return f' The file has {len(names)} categories: {in_words(list(map(repr, names)), 20)}.'
    return f" To paste, from the file: metainfo=dict(classes=({', '.join(map(repr, names))}{',' if len(names) == 1 else ''}))"
