"""Configs and settings with mistakes: what their author can mend is said in a line; faults of code keep their traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dynperceiver.launch import UsageError, build_runner, checkpoint_config, read_config, tool_parser
from dynperceiver_runtime import ExistingFileError, MissingFileError, MissingPackageError, UserError

BASE = "model = dict(type='A', depth=3, stages=[dict(width=1)])\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Function that writes a file beside the others and returns its path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv('LOCAL_RANK', '0')

    def make(text: str, name: str = 'leaf.py') -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return make


@pytest.mark.parametrize(
    ('text', 'kind', 'message'),
    [
        ('model = dict(\n', UserError, r'leaf\.py cannot be read: .*\bline 1\b'),
        ("_base_ = ['none.py']", MissingFileError, r'leaf\.py inherits from a file that is missing \(.*none\.py.*\); correct _base_'),
        ("_base_ = ['base.py']\nmodel = dict(depth=dict(a=1))", UserError, r'leaf\.py cannot be read: depth=.* cannot inherit from base'),
        ("_base_ = ['base.py', 'other.py']", UserError, r'leaf\.py cannot be read: Duplicate key is not allowed among bases.*model'),
        ("custom_imports = dict(imports=['of_nobody.at_all'])", MissingPackageError, r'leaf\.py needs of_nobody, which is not installed'),
        ("custom_imports = dict(imports=['needs_more'])", MissingPackageError, r'leaf\.py needs of_nobody, which is not installed'),
    ],
)
def test_mistakes_in_a_config_are_messages(write: Callable[..., Path], text: str, kind: type[UserError], message: str) -> None:
    write(BASE, 'base.py')
    write(BASE, 'other.py')
    write('import of_nobody.things\n', 'needs_more.py')
    with pytest.raises(kind, match=rf'(?s)^config .*{message}') as caught:
        read_config(write(text))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('text', 'kind'),
    [
        ("names = dict(a=1)\nmodel = names['b']", KeyError),
        ("_base_ = ['base.py']\nmodel = dict(depth=_base_.model['width'])", KeyError),
        ('model = 1 + None', TypeError),
        ('open("/none/at/all")', FileNotFoundError),
        ("custom_imports = dict(imports=['half_made'])", ImportError),
        ("custom_imports = dict(imports=['broken_code'])", TypeError),
        ("custom_imports = dict(imports=['asks_wrongly'])", ImportError),
    ],
)
def test_faults_of_code_keep_their_traceback(write: Callable[..., Path], text: str, kind: type[Exception]) -> None:
    write(BASE, 'base.py')
    write('from json import nothing_of_this_name\n', 'half_made.py')
    write('value = 1 + None\n', 'broken_code.py')
    write('import json.nothing_of_this_name\n', 'asks_wrongly.py')
    with pytest.raises(kind) as caught:
        read_config(write(text))
    assert not isinstance(caught.value, UserError)


def test_other_files_are_no_configs(write: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r'notes\.txt cannot be read: Only py/yml/yaml/json type are supported'):
        read_config(write('text', 'notes.txt'))
    with pytest.raises(MissingFileError, match=r'^config .*none\.py is missing; the configs that come with the project'):
        read_config(write('', 'a.py').with_name('none.py'))


@pytest.mark.parametrize('given', ['model.depth.deeper=1', 'model.stages.5.width=2', 'model.stages.first=2'])
def test_options_that_lead_nowhere_are_named(write: Callable[..., Path], given: str) -> None:
    args = tool_parser('', config='').parse_args(['x', '--cfg-options', given])
    with pytest.raises(UsageError, match=rf'^--cfg-options {given} do not fit .*leaf\.py: .*; correct the names$'):
        read_config(write(BASE), args.cfg_options)


@pytest.mark.parametrize('given', ['model.depth', 'a=[1,(2]', 'a=(1,2],b'])
def test_options_that_are_none_are_named(given: str) -> None:
    with pytest.raises(UsageError) as caught:
        tool_parser('', config='').parse_args(['x', '--cfg-options', 'b=1', given])
    assert str(caught.value).startswith(f'--cfg-options {given}: write KEY=VALUE')


def test_options_add_up() -> None:
    args = tool_parser('', config='').parse_args(['x', '--cfg-options', 'a=1', 'b.c=x,y', '--cfg-options', 'd=[(1,2)]'])
    assert args.cfg_options == {'a': 1, 'b.c': ['x', 'y'], 'd': [(1, 2)]}


def test_a_checkpoint_is_tested_with_the_options_merged(write: Callable[..., Path], tmp_path: Path) -> None:
    config = write(BASE + 'test_dataloader = dict(num_workers=2, persistent_workers=True)\n')
    (tmp_path / 'a.pth').touch()
    cfg = checkpoint_config(config, str(tmp_path / 'a.pth'), {'test_dataloader.num_workers': 0, 'model.depth': 5}, 'here')
    assert (cfg.load_from, cfg.work_dir, cfg.launcher, cfg.model.depth) == (str(tmp_path / 'a.pth'), 'here', 'none', 5)
    assert cfg.test_dataloader.persistent_workers is False
    with pytest.raises(MissingFileError, match=r'checkpoint none\.pth is missing'):
        checkpoint_config(config, 'none.pth')


def test_runners_need_a_model_and_a_work_dir_that_can_be_made(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'bare\.py has no model; pass the config of a training$'):
        build_runner(read_config(write("work_dir = 'here'", 'bare.py')))
    (tmp_path / 'file').touch()
    cfg = read_config(write(f"model = dict(type='A')\nwork_dir = {str(tmp_path / 'file' / 'here')!r}"))
    with pytest.raises(ExistingFileError, match=r'^work dir .*file/here cannot be made, since a file is in its place'):
        build_runner(cfg)
