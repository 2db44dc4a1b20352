"""Every tool shows the message alone of what its user can mend, keeps the traceback of its own faults, and has ``--debug``."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable

import pytest
from tool_runs import ROOT

from dynperceiver_runtime import MissingFileError, UserError

BARE = {'build_mmcv', 'mmcv_wheel', 'setup_env'}  # run before anything is installed, and so without the packages
TOOLS = sorted(path.stem for path in (ROOT / 'tools').glob('*.py') if path.stem not in BARE)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, call_tool: Callable[..., None]) -> Callable[..., None]:
    """Function that runs a tool which raises an error inside."""

    def run(tool: str, error: Exception, *arguments: str) -> None:
        def fail(*args: object, **kwargs: object) -> None:
            raise error

        monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', fail)
        call_tool(tool, *arguments)

    return run


@pytest.mark.parametrize('tool', TOOLS)
def test_faults_of_the_program_keep_their_traceback(
    tool: str, broken: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv('DYNPERCEIVER_DEBUG', raising=False)
    for error in (ValueError('a bug'), KeyError('a bug'), TypeError('a bug'), FileNotFoundError('a bug')):
        with pytest.raises(type(error)) as fault:
            broken(tool, error)
        assert fault.value is error
    for error in (UserError('mend it'), MissingFileError('mend it')):
        with pytest.raises(SystemExit, match=r'^error: mend it$'):
            broken(tool, error)
        assert capsys.readouterr().err == ''
        with pytest.raises(SystemExit, match=r'^error: mend it$'):
            broken(tool, error, '--debug')
        assert capsys.readouterr().err.startswith('Traceback')


@pytest.mark.parametrize('tool', TOOLS)
def test_debugging_is_offered(tool: str, call_tool: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        call_tool(tool, '--help')
    assert caught.value.code == 0
    assert '--debug' in capsys.readouterr().out


@pytest.mark.parametrize('tool', TOOLS)
def test_no_tool_adds_to_what_is_shown_without_a_traceback(tool: str) -> None:
    calls = [node for node in ast.walk(ast.parse((ROOT / 'tools' / f'{tool}.py').read_text())) if isinstance(node, ast.Call)]
    runs = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == 'run_tool']
    assert [len(call.args) + len(call.keywords) for call in runs] == [1]
