"""How errors end a tool: what its user can mend with its message alone, everything else with its traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dynperceiver_runtime import ExistingFileError, FileError, MissingFileError, MissingPackageError, UserError
from dynperceiver_runtime.command_line import DEBUG_FLAG, DEBUG_VARIABLE, run_tool

WORKER = """Caught {name} in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "/x/worker.py", line 1, in run
    raise {name}('first')
dynperceiver_runtime.errors.{name}: first

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/x/worker.py", line 2, in run
    raise {name}('a {name}: text')
dynperceiver_runtime.errors.{name}: picture.jpg is broken;
restore the file
"""


class _Derived(UserError):
    """One of a package's own."""


def run(error: BaseException, *flags: str) -> int | str | None:
    """Code with which a tool ends that raises the error."""

    def main() -> None:
        raise error

    sys.argv = ['tool', *flags]
    with pytest.raises(SystemExit) as caught:
        run_tool(main)
    return caught.value.code


@pytest.fixture(autouse=True)
def _own_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'argv', ['tool'])
    monkeypatch.delenv(DEBUG_VARIABLE, raising=False)


@pytest.mark.parametrize('kind', [UserError, _Derived, FileError, MissingFileError, ExistingFileError, MissingPackageError])
def test_what_a_user_can_mend_is_one_message(kind: type[UserError], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(kind('a.json is missing; make it')) == 'error: a.json is missing; make it'
    assert capsys.readouterr() == ('', '')


def test_kinds_of_files_and_packages_are_those_of_python_too() -> None:
    assert issubclass(MissingFileError, FileNotFoundError) and issubclass(ExistingFileError, FileExistsError)
    assert issubclass(MissingPackageError, ImportError) and issubclass(FileError, OSError) and issubclass(UserError, ValueError)
    assert str(MissingFileError('a text')) == 'a text'


@pytest.mark.parametrize(
    'error',
    [ValueError('a bug'), TypeError('a bug'), KeyError('a bug'), FileNotFoundError('a bug'), RuntimeError(), OSError(28, 'No space')],
)
@pytest.mark.parametrize('flags', [(), (DEBUG_FLAG,)])
def test_everything_else_keeps_its_traceback(error: Exception, flags: tuple[str, ...]) -> None:
    def main() -> None:
        raise error

    sys.argv = ['tool', *flags]
    with pytest.raises(type(error)) as caught:
        run_tool(main)
    assert caught.value is error


@pytest.mark.parametrize('by_variable', [False, True])
def test_debugging_shows_the_traceback_as_well(
    by_variable: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if by_variable:
        monkeypatch.setenv(DEBUG_VARIABLE, '1')
    assert run(UserError('mend it'), *([] if by_variable else [DEBUG_FLAG])) == 'error: mend it'
    text = capsys.readouterr().err
    assert text.startswith('Traceback') and 'in main' in text and text.rstrip().endswith('UserError: mend it')


def test_debugging_is_off_where_the_variable_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(DEBUG_VARIABLE, '0')
    run(UserError('mend it'))
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('kind', [UserError, _Derived, MissingFileError])
def test_of_a_loaders_worker_the_last_message_is_shown(kind: type[UserError]) -> None:
    text = WORKER.format(name=kind.__name__)
    assert run(kind(text)) == 'error: picture.jpg is broken;\nrestore the file'


@pytest.mark.parametrize('names', [['Resize'], ['Compose', 'Resize']])
def test_what_registries_put_in_front_becomes_the_name_of_the_class(names: list[str]) -> None:
    text = ''.join(f'class `{name}` in package/some/module.py: ' for name in names) + 'size=0: pass 1 or more'
    assert run(UserError(text)) == 'error: Resize: size=0: pass 1 or more'


def test_interruption_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err.strip() == 'interrupted'


PRINT = 'import sys; from dynperceiver_runtime.command_line import run_tool; '


@pytest.mark.parametrize('buffered', [True, False])
def test_a_reader_that_has_gone_ends_it_without_a_word(buffered: bool) -> None:
    code = f'{PRINT}run_tool(lambda: [print("line") for _ in range(100000)])'
    command = [sys.executable, *([] if buffered else ['-u']), '-c', code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == 'line\n'
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ('', 141)


def test_a_reader_that_has_gone_before_a_short_text_is_written() -> None:
    """It waits in a buffer until the tool ends."""
    code = f'{PRINT}run_tool(lambda: [print("line"), sys.stdin.read()])'
    command = [sys.executable, '-c', code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdout.close()
        process.stdin.write('go on\n')
        process.stdin.close()
        assert (process.stderr.read(), process.wait()) == ('', 141)


def test_a_pipe_within_the_program_that_broke_is_a_fault_of_the_program() -> None:
    code = f'{PRINT}\ndef main():\n    raise BrokenPipeError("a worker died")\nrun_tool(main)'
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 1 and 'BrokenPipeError: a worker died' in result.stderr


def test_in_a_process_of_its_own_nothing_else_is_printed() -> None:
    code = f'{PRINT}\nfrom dynperceiver_runtime import UserError\ndef main():\n    raise UserError("mend it")\nrun_tool(main)'
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (1, '', 'error: mend it\n')
