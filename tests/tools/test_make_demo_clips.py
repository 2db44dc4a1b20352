"""The command line of tools/make_demo_clips.py."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[2] / 'tools/make_demo_clips.py'
SMALL = ['--num-train', '8', '--num-val', '8', '--num-frames', '4', '--size', '36', '--seed', '5']


@pytest.fixture(scope='module')
def main() -> Callable[[list[str]], Any]:
    return runpy.run_path(str(TOOL))['main']


def test_makes_clips_once(main: Callable[[list[str]], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / 'demo'
    main([str(out), *SMALL])
    printed = capsys.readouterr()
    assert f'8 + 8 clips in {out}' in printed.out and '16/16' in printed.err
    assert len(list(out.rglob('*.mp4'))) == 16
    main([str(out), *SMALL, '--quiet'])
    assert capsys.readouterr().out == f'{out} is complete, nothing to do\n'


def test_says_what_is_wrong_without_a_traceback(call_tool: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r'^error: size_px=37 is odd'):
        call_tool('make_demo_clips', tmp_path / 'demo', '--size', '37')
    (tmp_path / 'file').write_text('')
    with pytest.raises(SystemExit, match=r'^error: .* is not a demo data set'):
        call_tool('make_demo_clips', tmp_path, *SMALL)
