"""Arguments that the tools share."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config

from dynperceiver.launch import UsageError, add_shape, check_at_least, check_output, image_size, tool_parser
from dynperceiver_runtime import ExistingFileError, FileError, MissingFileError


def test_tools_without_a_config_have_no_options_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool_parser('').parse_args(['--debug']).debug is True
    assert tool_parser('', cfg_options=True).parse_args(['--cfg-options', 'a=1']).cfg_options == {'a': 1}
    with pytest.raises(SystemExit):
        tool_parser('').parse_args(['--cfg-options', 'a=1'])
    assert '--cfg-options' in capsys.readouterr().err
    assert tool_parser('', config='the config').parse_args(['c.py']).config == 'c.py'


@pytest.mark.parametrize(
    ('given', 'in_config', 'expected'),
    [(['32'], (16, 8), (32, 32)), (['32', '48'], None, (32, 48)), ([], (16, 8), (16, 8)), ([], None, (224, 224))],
)
def test_sizes(given: list[str], in_config: tuple[int, int] | None, expected: tuple[int, int]) -> None:
    parser = tool_parser('')
    add_shape(parser)
    args = parser.parse_args(['--shape', *given] if given else [])
    assert image_size(args.shape, Config({} if in_config is None else {'input_shape': in_config})) == expected


def test_numbers_have_a_least() -> None:
    check_at_least('--num', 1, 1)
    with pytest.raises(UsageError, match=r'^--num 0: pass 1 or more$'):
        check_at_least('--num', 0, 1)


def test_outputs_are_checked_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'there').touch()
    for path in ('new', 'there', tmp_path / 'new'):
        check_output('--out', path)
    with pytest.raises(ExistingFileError, match=r'^--out there exists already; choose another name or pass --overwrite$'):
        check_output('--out', 'there', overwrite=False)
    with pytest.raises(MissingFileError, match=r'^--out no/a: its folder is missing; make it first$'):
        check_output('--out', 'no/a')
    with pytest.raises(ExistingFileError, match=r'is a folder; pass the name of a file'):
        check_output('--out', tmp_path)
    with pytest.raises(FileError, match=r'^--out /proc/a: nothing can be written to its folder \(.*\); choose another$'):
        check_output('--out', '/proc/a')
    assert [path.name for path in tmp_path.iterdir()] == ['there']
