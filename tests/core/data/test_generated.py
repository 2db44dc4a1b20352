"""Folders of generated data: whole or not at all, and never over something else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dynperceiver.data import is_generated, make_folder

IDENTITY = {'format_version': 1, 'params': {'seed': 0}}


def _list(folder: Path) -> list[str]:
    return (folder / 'list.txt').read_text().split()


def _fill(folder: Path) -> Mapping[str, Any]:
    (folder / 'list.txt').write_text('a.bin b.bin')
    for name in ('a.bin', 'b.bin'):
        (folder / name).write_bytes(b'x')
    return {'more': [1]}


def test_made_once(tmp_path: Path) -> None:
    folder = tmp_path / 'deep' / 'set'
    assert make_folder(folder, IDENTITY, _list, _fill)
    assert is_generated(folder, IDENTITY, _list)
    assert not make_folder(folder, IDENTITY, _list, _never)
    assert [path.name for path in folder.parent.iterdir()] == ['set']


def _never(folder: Path) -> Mapping[str, Any]:
    raise AssertionError('it was there already')


@pytest.mark.parametrize('harm', ['gone', 'empty', 'other', 'garbled'])
def test_made_anew_where_something_is_wrong(tmp_path: Path, harm: str) -> None:
    make_folder(tmp_path / 'set', IDENTITY, _list, _fill)
    identity = IDENTITY if harm != 'other' else {**IDENTITY, 'params': {'seed': 1}}
    if harm == 'gone':
        (tmp_path / 'set' / 'a.bin').unlink()
    elif harm == 'empty':
        (tmp_path / 'set' / 'a.bin').write_bytes(b'')
    elif harm == 'garbled':
        (tmp_path / 'set' / 'manifest.json').write_text('{')
    assert not is_generated(tmp_path / 'set', identity, _list)
    assert make_folder(tmp_path / 'set', identity, _list, _fill)
    assert is_generated(tmp_path / 'set', identity, _list)


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    make_folder(tmp_path / 'set', IDENTITY, _list, _fill)
    with pytest.raises(ZeroDivisionError):
        make_folder(tmp_path / 'set', {'format_version': 2}, _list, lambda folder: {'x': 1 / 0})
    assert is_generated(tmp_path / 'set', IDENTITY, _list)
    assert [path.name for path in tmp_path.iterdir()] == ['set']


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('years of work')
    with pytest.raises(FileExistsError, match=r'mine exists and is not a demo data set .* choose another folder or remove it'):
        make_folder(tmp_path / 'mine', IDENTITY, _list, _fill)
    assert (tmp_path / 'mine' / 'thesis.txt').read_text() == 'years of work'


def test_a_data_set_without_files_is_none(tmp_path: Path) -> None:
    make_folder(tmp_path / 'set', IDENTITY, lambda folder: ['manifest.json'], lambda folder: {})
    assert not is_generated(tmp_path / 'set', IDENTITY, lambda folder: [])
