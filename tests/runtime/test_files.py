"""Files that are written whole or not at all, and what is said of those that cannot be."""

from __future__ import annotations

import csv
import errno
import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynperceiver_runtime import ExistingFileError, FileError, MissingFileError, UserError
from dynperceiver_runtime.files import make_folders, open_atomically, reading, replacing, write_atomically, write_json, writing


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def usual_umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.parametrize('content', [b'\x00\xff\r\n', 'text\nwith \r\n and \u00e9', memoryview(b'bytes'), ''])
def test_what_is_given_is_there(tmp_path: Path, content: Any) -> None:
    for _ in range(2):  # a new file, and one that is replaced
        write_atomically(tmp_path / 'a.txt', content)
    assert (tmp_path / 'a.txt').read_bytes() == (content.encode() if isinstance(content, str) else bytes(content))
    assert names(tmp_path) == {'a.txt'}


def test_a_path_needs_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_atomically('a.txt', 'text')
    assert (tmp_path / 'a.txt').read_text() == 'text'


def test_text_tables_and_arrays(tmp_path: Path) -> None:
    with open_atomically(tmp_path / 'a.csv', 'w', newline='') as file:
        csv.writer(file).writerows([['é', 'b\nc'], [1, 2]])
    assert (tmp_path / 'a.csv').read_bytes() == 'é,"b\nc"\r\n1,2\r\n'.encode()
    with open_atomically(tmp_path / 'a.npz') as file:
        np.savez(file, a=np.arange(3))
    assert np.load(tmp_path / 'a.npz')['a'].tolist() == [0, 1, 2]
    write_json(tmp_path / 'a.json', {'name': 'é', 'x': [1.5]})
    assert json.loads((tmp_path / 'a.json').read_bytes()) == {'name': 'é', 'x': [1.5]}
    with pytest.raises(ValueError, match='JSON'):
        write_json(tmp_path / 'b.json', float('nan'), allow_nan=False)
    assert names(tmp_path) == {'a.csv', 'a.npz', 'a.json'}


@pytest.mark.usefixtures('usual_umask')
def test_permissions_are_the_usual_ones_or_those_that_were_there(tmp_path: Path) -> None:
    write_atomically(tmp_path / 'new', 'x')
    assert stat.S_IMODE((tmp_path / 'new').stat().st_mode) == 0o640
    (tmp_path / 'new').chmod(0o604)
    write_atomically(tmp_path / 'new', 'y')
    assert stat.S_IMODE((tmp_path / 'new').stat().st_mode) == 0o604


def test_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / 'there').mkdir()
    for name, target in (('link', 'there/file'), ('dangling', 'there/later')):
        (tmp_path / name).symlink_to(target)
    write_atomically(tmp_path / 'there' / 'file', 'old')
    for name, target in (('link', 'file'), ('dangling', 'later')):
        write_atomically(tmp_path / name, 'new')
        assert (tmp_path / name).is_symlink() and (tmp_path / 'there' / target).read_text() == 'new'
    assert names(tmp_path / 'there') == {'file', 'later'}


@pytest.mark.parametrize('error', [KeyError('a bug'), KeyboardInterrupt(), OSError(errno.ENOENT, 'no font'), OSError('of no number')])
def test_a_body_that_fails_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    write_atomically(tmp_path / 'a', 'old')
    with pytest.raises(type(error)) as caught, open_atomically(tmp_path / 'a', 'w') as file:
        file.write('half')
        raise error
    assert caught.value is error and not isinstance(error, UserError)
    assert (tmp_path / 'a').read_text() == 'old' and names(tmp_path) == {'a'}


@pytest.mark.parametrize('function', ['write', 'fsync', 'replace'])
def test_a_full_disk_is_said_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_atomically(tmp_path / 'a', 'old')
    if function != 'write':
        monkeypatch.setattr(os, function, refuse)
    with pytest.raises(FileError, match=r'policy .*/a cannot be written \(No space left on device\); choose a place'):
        if function == 'write':
            with open_atomically(tmp_path / 'a', what='policy'):
                refuse()
        else:
            write_atomically(tmp_path / 'a', 'new', 'policy')
    assert (tmp_path / 'a').read_text() == 'old' and names(tmp_path) == {'a'}


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='there is no full disk to write to')
def test_a_buffer_that_cannot_be_emptied_hides_no_message(tmp_path: Path) -> None:
    """What is left in a buffer is written again when a file is closed, and fails again."""
    with pytest.raises(FileError, match='No space left on device'), replacing(tmp_path / 'a') as partial:
        partial.unlink()
        partial.symlink_to('/dev/full')
        with partial.open('w') as file:
            file.write('x' * 100_000)


def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(MissingFileError, match=r'no/a cannot be written: the folder .*/no is missing; make it first'):
        write_atomically(tmp_path / 'no' / 'a', '')
    with pytest.raises(MissingFileError, match=r'file/a cannot be written: the folder .*/file is missing'):
        write_atomically(tmp_path / 'file' / 'a', '')
    with pytest.raises(ExistingFileError, match=r'cannot be written: it is a folder; choose the name of a file'):
        write_atomically(tmp_path, '')
    with pytest.raises(ExistingFileError, match=r'/dev/null cannot be written: it is no plain file'):
        write_atomically('/dev/null', '')
    assert stat.S_ISCHR(os.stat('/dev/null').st_mode)
    with pytest.raises(FileError, match=r'cannot be written \(.*\); choose a place that you may write to, with space left'):
        write_atomically('/proc/a', '')


def test_names_as_long_as_they_may_be(tmp_path: Path) -> None:
    write_atomically(tmp_path / ('a' * 255), 'x')
    write_atomically(tmp_path / ('é' * 127), 'x')
    assert len(names(tmp_path)) == 2
    with pytest.raises(FileError, match='File name too long'):
        write_atomically(tmp_path / ('a' * 256), 'x')


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_protected_files_and_folders_as_a_user(tmp_path: Path) -> None:
    (tmp_path / 'a').touch(0o444)
    with pytest.raises(FileError, match='it is write-protected; choose another name, or take the protection off'):
        write_atomically(tmp_path / 'a', '')
    tmp_path.chmod(0o555)
    with pytest.raises(FileError, match='Permission denied'):
        write_atomically(tmp_path / 'b', '')


def test_a_protected_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / 'a', 'old')
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    with pytest.raises(FileError, match='it is write-protected'):
        write_atomically(tmp_path / 'a', 'new')
    assert (tmp_path / 'a').read_text() == 'old'


def test_writers_at_once_do_not_clash(tmp_path: Path) -> None:
    texts = [character * 50_000 for character in 'abcdefgh']
    faults: list[Exception] = []

    def write(text: str) -> None:
        try:
            for _ in range(10):
                write_atomically(tmp_path / 'a', text)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=write, args=[text]) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults and (tmp_path / 'a').read_text() in texts and names(tmp_path) == {'a'}


def test_folders_are_made(tmp_path: Path) -> None:
    for _ in range(2):
        assert make_folders(tmp_path / 'a' / 'b') == tmp_path / 'a' / 'b'
    assert (tmp_path / 'a' / 'b').is_dir()
    (tmp_path / 'file').touch()
    for path in (tmp_path / 'file', tmp_path / 'file' / 'a'):
        with pytest.raises(ExistingFileError, match=r'work dir .* cannot be made, since a file is in its place; choose another name'):
            make_folders(path, 'work dir')
    with pytest.raises(FileError, match=r'/proc/a cannot be written'):
        make_folders('/proc/a')


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r'result .*/a is missing; check the path'), reading(tmp_path / 'a', 'result'):
        (tmp_path / 'a').read_bytes()
    with pytest.raises(FileError, match=r'result .* cannot be read \(Is a directory\); check the path'), reading(tmp_path, 'result'):
        tmp_path.read_bytes()
    with pytest.raises(ZeroDivisionError), reading(tmp_path), writing(tmp_path):
        _ = 1 / 0
