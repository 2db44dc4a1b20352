"""What all command lines share: how an error ends them, and what shows its traceback."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from .errors import UserError

__all__ = ['DEBUG_FLAG', 'DEBUG_HELP', 'DEBUG_VARIABLE', 'run_tool']

DEBUG_FLAG = '--debug'
DEBUG_VARIABLE = 'DYNPERCEIVER_DEBUG'
DEBUG_HELP = f'show the traceback of every error, also of those that you can mend yourself (same as {DEBUG_VARIABLE}=1)'


def run_tool(main: Callable[[], object]) -> None:
    """Run a tool's main function.

    A :class:`~dynperceiver_runtime.UserError`, which the user of the tool can mend, ends it with ``error: MESSAGE`` on stderr and exit
    code 1; ``--debug`` on the command line, or the environment variable ``DYNPERCEIVER_DEBUG=1``, shows its traceback as well. Every
    other exception is a fault of the program and keeps its traceback. Ctrl-C ends the tool with one line and exit code 130, and a reader of
    its output that has gone away (``| head``) without a word.

    Args:
        main: The tool.
    """
    try:
        main()
        sys.stdout.flush()  # here, and not when the interpreter shuts down, where nobody could catch a closed pipe
    except UserError as error:
        if _wants_debug():
            traceback.print_exception(error)
        sys.exit(f'error: {_message(error)}')
    except KeyboardInterrupt:
        if _wants_debug():
            traceback.print_exc()
        print('\ninterrupted', file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        if not any(_reader_is_gone(descriptor) for descriptor in (1, 2)):
            raise  # another pipe, for example to a worker process that died
        _end_quietly()


def _wants_debug() -> bool:
    return DEBUG_FLAG in sys.argv[1:] or os.environ.get(DEBUG_VARIABLE, '') not in ('', '0')


def _message(error: UserError) -> str:
    """The message without what other libraries wrap around it."""
    text = str(error)
    if 'Original Traceback (most recent call last):' in text:
        # PyTorch's data loaders raise a worker's exception again with its traceback as the text: the message comes last.
        found = list(re.finditer(rf'^(?:\w+\.)*{type(error).__name__}: ', text, re.MULTILINE))
        text = text[found[-1].end() :].rstrip() if found else text
    # MMEngine's registries (before 0.10.5) put the class that was being built in front, one for each level of nesting.
    wrapped = re.match(r'(?:class `(\w+)` in \S+: )+', text)
    return f'{wrapped[1]}: {text[wrapped.end() :]}' if wrapped else text


def _reader_is_gone(descriptor: int) -> bool:
    if not hasattr(select, 'poll'):
        return True
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poller.poll(0))


def _end_quietly() -> NoReturn:
    """End as a command does that SIGPIPE killed, without the interpreter's complaint about what it could not flush."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            os.dup2(nowhere, descriptor)
    sys.exit(141)
