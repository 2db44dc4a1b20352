"""Reads a COCO annotation file and says which of its records are not what the format asks for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable
from itertools import compress
from operator import itemgetter
from typing import Any

from dynperceiver_runtime import UserError
from dynperceiver_runtime.files import reading

__all__ = ['Records', 'in_words', 'read_json', 'require_sections']

_MAX_LISTED = 5
_SECTIONS = {
    'images': 'a list of {"id", "file_name", "width", "height"}',
    'annotations': 'a list of {"id", "image_id", "category_id", "bbox": [x, y, width, height], "area"}',
    'categories': 'a list of {"id", "name"}',
}


def in_words(items: Collection[Any], num_listed: int = _MAX_LISTED, separator: str = ', ') -> str:
    """The first of some items, and how many more there are.

    Args:
        items: What to list.
        num_listed: How many at most.
        separator: What stands between two.
    """
    words = [str(item) for item, _ in zip(items, range(num_listed), strict=False)]
    return separator.join(words + [f'and {len(items) - num_listed} more'] * (len(items) > num_listed))


def read_json(path: str, name: str) -> dict[str, Any]:
    """Read a JSON file whose top level is an object.

    Args:
        path: The file on this machine.
        name: What the config calls the file, for messages.

    Raises:
        UserError: If it is empty, cut off, no JSON, or something else than an object.
    """
    try:
        with reading(name, 'annotation file'), open(path, encoding='utf-8-sig') as file:
            text = file.read()
        content = json.loads(text)
    except UnicodeDecodeError as error:
        raise UserError(
            f'{name} is no JSON file: {error.reason} at byte {error.start}; give ann_file the .json file, unpacked, in UTF-8.'
        ) from error
    except json.JSONDecodeError as error:
        stripped = text.strip()
        # What is cut off within a string is reported where the string starts, so the position alone does not tell.
        cut = not stripped or (stripped[0] in '{[' and stripped[-1] not in '}]') or error.pos >= len(text.rstrip())
        what = 'is empty' if not stripped else 'is cut off' if cut else 'is no JSON file'
        raise UserError(
            f'{name} {what}: line {error.lineno}, column {error.colno}: {error.msg}, {len(text)} characters in all; '
            + ('download or export it anew.' if cut else 'correct the line, or give ann_file the COCO .json file.')
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f'{name} holds a {type(content).__name__} at its top level, but COCO format needs an object with '
            f'{", ".join(_SECTIONS)}; a file of detections or of one section alone is no annotation file.'
        )
    return content


def require_sections(content: dict[str, Any], name: str, annotations: bool = True) -> None:
    """Require the three lists of COCO format.

    Args:
        content: The file's content.
        name: What the config calls the file.
        annotations: Whether annotations are needed; a test set may lack them.

    Raises:
        UserError: If one of them lacks, or is no list of objects.
    """
    needed = [section for section in _SECTIONS if annotations or section != 'annotations' or section in content]
    lacking = [section for section in needed if section not in content]
    if lacking:
        formats = '; '.join(f'"{section}": {_SECTIONS[section]}' for section in lacking)
        raise UserError(
            f'{name} lacks {" and ".join(lacking)}: COCO format needs {formats}. The file has {", ".join(content) or "nothing"}'
            + ('; without annotations it can only serve with test_mode=True.' if lacking == ['annotations'] else '.')
        )
    for section in needed:
        if not isinstance(content[section], list) or not set(map(type, content[section])) <= {dict}:
            raise UserError(f'{name}: {section} must be {_SECTIONS[section]}; write it so.')
    if not content['images']:
        raise UserError(f'{name}: images is empty, so there is nothing to load; give ann_file a file that lists images.')


class Records:
    """One section of the file, by columns.

    Args:
        records: The section's records.
        section: Its name.
        file: What the config calls the file.
        fields: Names of the fields that every record must have, ``'id'`` among them.

    Raises:
        UserError: If a record lacks a field, or two have the same id.
    """

    def __init__(self, records: list[dict[str, Any]], section: str, file: str, fields: tuple[str, ...]) -> None:
        self.records, self.section, self.file = records, section, file
        try:
            self._columns = {field: list(map(itemgetter(field), records)) for field in fields}
        except KeyError:
            self._name_what_lacks(fields)
            raise
        for field in fields:
            if field == 'id' or field.endswith('_id'):
                self.require(field, {int, float, str}, 'a number or a string')
        self._require_unique()

    def __getitem__(self, field: str) -> list[Any]:
        """The column of a field."""
        return self._columns[field]

    def __len__(self) -> int:
        """Number of records."""
        return len(self.records)

    def require(self, field: str, types: set[type], rule: str) -> None:
        """Require a field's values to be of some types, exactly.

        Args:
            field: The field.
            types: Types that ``json`` makes of what may stand there.
            rule: What the field must be, in words.

        Raises:
            UserError: If one is of another type.
        """
        if not set(map(type, self[field])) <= types:
            self.refuse(field, (type(value) not in types for value in self[field]), rule)

    def refuse(self, field: str, wrong: Iterable[bool], rule: str) -> None:
        """Raise a ValueError that names the records whose field is wrong, if there are any.

        Args:
            field: The field.
            wrong: For every record whether it is wrong.
            rule: What the field must be, in words.
        """
        positions = list(compress(range(len(self)), wrong))
        if positions:
            values = [f'{self.where(i)} has {self[field][i]!r}' for i in positions[:_MAX_LISTED]]
            raise UserError(
                f'{self.file}: {field} must be {rule} in all of {self.section}, but {len(positions)} of {len(self)} are wrong: '
                f'{"; ".join(values)}{"; ..." if len(positions) > _MAX_LISTED else ""}. Correct the file.'
            )

    def where(self, position: int) -> str:
        """Words that name a record: its id or, without one, its position.

        Args:
            position: Counted from 0.
        """
        record = self.records[position]
        return f'id {record["id"]!r}' if 'id' in record else f'{self.section}[{position}]'

    def _name_what_lacks(self, fields: tuple[str, ...]) -> None:
        for field in fields:
            positions = [i for i, record in enumerate(self.records) if field not in record]
            if positions:
                advice = ' (width times height of the box, if there is no mask)' if field == 'area' else ''
                raise UserError(
                    f'{self.file}: {len(positions)} of {len(self.records)} {self.section} lack "{field}": '
                    f'{in_words([self.where(i) for i in positions])}. COCO format needs {_SECTIONS[self.section]}; '
                    f'write "{field}" into the file{advice}.'
                )

    def _require_unique(self) -> None:
        if len(set(self['id'])) < len(self):
            repeated = [value for value, count in Counter(self['id']).items() if count > 1]
            raise UserError(
                f'{self.file}: ids of {self.section} must be unique, but {len(repeated)} occur more than once: {in_words(repeated)}. '
                f'Number the {self.section} anew; files that were merged often repeat ids.'
            )
