"""What tests of several tools share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tool_runs import run_here


@pytest.fixture
def call_tool() -> Callable[..., None]:
    """Function that runs ``tools/NAME.py`` within this process, as ``python tools/NAME.py ARGUMENTS`` would."""

    def call(name: str, *arguments: str | Path) -> None:
        run_here(f'tools/{name}.py', *arguments)

    return call
