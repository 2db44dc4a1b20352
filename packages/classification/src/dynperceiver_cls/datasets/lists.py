"""Images named in a list with their labels."""

from __future__ import annotations

import csv
import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dynperceiver.data import in_words
from dynperceiver_runtime import MissingFileError, UserError
from dynperceiver_runtime.files import reading

from ..registry import DATASETS
from .base import ImageDataset

__all__ = ['CSVImages', 'read_name_label_list', 'require_images']


def require_images(paths: Sequence[str], ann_file: str) -> None:
    """Require all images of a list to be there; every folder is listed once.

    Args:
        paths: The images.
        ann_file: The list, for the message.

    Raises:
        MissingFileError: If some are missing.
    """
    listings: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listings:
            listings[folder] = set(os.listdir(folder or '.')) if os.path.isdir(folder or '.') else set()
        # A second look, because names may differ from the listing's where letters' case does not count.
        if name not in listings[folder] and not os.path.isfile(path):
            missing.append(path)
    if missing:
        advice = (
            'data_root or data_prefix may point to another folder than the paths of the list count from'
            if len(missing) == len(paths)
            else 'unpack the images completely, or take these lines out'
        )
        raise MissingFileError(f'{ann_file}: {len(missing)} of {len(paths)} images are missing: {in_words(missing)}; {advice}.')


def read_name_label_list(path: str) -> list[tuple[str, int]]:
    """Read a text file with lines ``NAME LABEL``, as of OpenMMLab's lists of ImageNet; names may have spaces.

    Args:
        path: The file.

    Returns:
        Names and labels.

    Raises:
        UserError: If a line is something else, or there is none.
    """
    try:
        with reading(path, 'list of images'), open(path, encoding='utf-8') as file:
            lines = file.readlines()
    except UnicodeDecodeError as error:
        raise UserError(f'{path} is no UTF-8 text ({error}); save it as UTF-8.') from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(' ')
        if not name or not re.fullmatch(r'\d+', label):
            raise UserError(
                f'{path}, line {number}: {line.strip()!r} must be a name, a space and a class number of 0 or more; for other lists, '
                'use dynperceiver_cls.CSVImages.'
            )
        rows.append((name.strip(), int(label)))
    if not rows:
        raise UserError(f'{path} names no image; it must have a line `NAME LABEL` for each.')
    return rows


@DATASETS.register_module()
class CSVImages(ImageDataset):
    """Images named in a CSV file with a header, such as ``path,label``.

    A label is the name of a class, or its number from 0. Names need ``metainfo['classes']``, a tuple or a text file with a class per line,
    because a set that lacks a class would else number them differently. Without it, classes are named by their numbers.

    Args:
        ann_file: The CSV file, in UTF-8.
        path_column: Column with the paths, which count from ``data_prefix['img_path']`` below ``data_root``.
        label_column: Column with the labels; None for unlabelled images.
        group_column: Column that says which images belong together, such as those of a person, a scene or a video: when a part is held
            out, they stay in one part. None where every image stands for itself.
        delimiter: What stands between columns.
        kwargs: Passed on to :class:`ImageDataset`.

    Raises:
        MissingFileError: If the list, a folder or an image is missing (with ``lazy_init=True``: when first needed).
        UserError: If the list has a mistake; the text names its line.
    """

    def __init__(
        self,
        ann_file: str,
        *,
        path_column: str = 'path',
        label_column: str | None = 'label',
        group_column: str | None = None,
        delimiter: str = ',',
        **kwargs: Any,
    ) -> None:
        if group_column is not None and kwargs.get('group_pattern') is not None:
            raise UserError(
                f'group_column={group_column!r} and group_pattern={kwargs["group_pattern"]!r} both say what the groups are; leave one out.'
            )
        self.path_column = path_column
        self.label_column = label_column
        self.group_column = group_column
        self.delimiter = delimiter
        super().__init__(ann_file=ann_file, **kwargs)

    def load_samples(self) -> list[dict[str, Any]]:
        """Read the list.

        Raises:
            MissingFileError: If an image is missing.
            UserError: If the list has a mistake.
        """
        classes = self.given_classes()
        numbers = None if classes is None else {name: number for number, name in enumerate(classes)}
        prefix = self.data_prefix.get('img_path', '')
        samples: list[dict[str, Any]] = []
        for where, row in self._rows():
            path = row[self.path_column].strip()
            if not path:
                raise UserError(f'{where}: {self.path_column} is empty; write the path of an image, or remove the line.')
            sample: dict[str, Any] = {'img_path': os.path.join(prefix, path)}
            if self.label_column is not None:
                sample['gt_label'] = _label(row[self.label_column].strip(), numbers, where)
            if self.group_column is not None:
                sample['group'] = row[self.group_column].strip()
                if not sample['group']:
                    raise UserError(
                        f'{where}: {self.group_column} is empty; write what the image belongs to, such as a person, or a name of its own '
                        'where it stands for itself.'
                    )
            samples.append(sample)
        if not samples:
            raise UserError(f'{self.ann_file} names no image; it must have a line for each after the header.')
        paths = [sample['img_path'] for sample in samples]
        require_images([path for path in paths if not self.is_remote(path)], self.ann_file)
        if classes is None:
            classes = tuple(str(number) for number in range(1 + max(sample.get('gt_label', -1) for sample in samples)))
        self._metainfo['classes'] = classes
        return samples

    def _rows(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Place and columns of every line."""
        with reading(self.ann_file, 'list of images'), open(self.ann_file, encoding='utf-8-sig', newline='') as file:
            reader = csv.reader(file, delimiter=self.delimiter, strict=True)
            try:
                header = [name.strip() for name in next(reader, [])]
                self._check_header(header)
                for fields in reader:
                    where = f'{self.ann_file}, line {reader.line_num}'
                    if len(fields) == len(header):
                        yield where, dict(zip(header, fields, strict=True))
                    elif fields:
                        raise UserError(
                            f'{where} has {len(fields)} columns, but the header has {len(header)}: {in_words(header)}; put a text that has '
                            f'a {self.delimiter!r} in it between double quotes, or set delimiter.'
                        )
            except csv.Error as error:
                raise UserError(f'{self.ann_file}, line {reader.line_num} is no CSV ({error}); correct the quotes.') from error
            except UnicodeDecodeError as error:
                raise UserError(f'{self.ann_file} is not in UTF-8 ({error}); save it with that encoding.') from error

    def _check_header(self, header: list[str]) -> None:
        repeated = sorted({name for name in header if header.count(name) > 1})
        wanted = [name for name in (self.path_column, self.label_column, self.group_column) if name is not None]
        lacking = [name for name in wanted if name not in header]
        if repeated or lacking:
            what = f'repeats {in_words(repeated)}' if repeated else f'lacks {in_words(lacking)}'
            raise UserError(
                f'{self.ann_file}, line 1: the header {in_words(header, 10)!r} {what}; it must name every column once, for example '
                f'{self.delimiter.join(wanted)!r}. Correct it, or set path_column, label_column, group_column '
                'and delimiter.'
            )


def _label(text: str, numbers: Mapping[str, int] | None, where: str) -> int:
    if numbers is not None and text in numbers:
        return numbers[text]
    if re.fullmatch(r'\d+', text, re.ASCII):
        if numbers is None or int(text) < len(numbers):
            return int(text)
        raise UserError(f'{where}: label {text} is out of range; there are {len(numbers)} classes, numbered from 0 to {len(numbers) - 1}.')
    if numbers is None:
        raise UserError(
            f"{where}: label {text!r} is no class number of 0 or more; for names, set metainfo=dict(classes=('cat', 'dog')) or "
            "metainfo=dict(classes='classes.txt')."
        )
    near = difflib.get_close_matches(text, numbers, n=1)
    hint = f' (it resembles {near[0]!r})' if near else ''
    raise UserError(
        f'{where}: label {text!r} is none of the {len(numbers)} classes: {in_words(list(numbers), 10)}{hint}. Correct it, or '
        "metainfo['classes']."
    )
