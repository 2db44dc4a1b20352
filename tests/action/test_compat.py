"""The part that MMAction2's wheel lacks, and what stands in for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynperceiver_action import compat


@pytest.fixture
def fake_mmaction(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A package mmaction on the path, with localizers but without DRN; yields the folder of the localizers."""
    localizers = tmp_path / 'mmaction' / 'models' / 'localizers'
    localizers.mkdir(parents=True)
    for folder in (localizers, localizers.parent, localizers.parent.parent):
        (folder / '__init__.py').touch()
    for name in [name for name in sys.modules if name.split('.')[0] == 'mmaction']:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield localizers
    for name in [name for name in sys.modules if name.split('.')[0] == 'mmaction']:
        del sys.modules[name]


def test_drn_gets_a_stand_in_only_where_it_is_missing(fake_mmaction: Path) -> None:
    assert compat.mmaction_lacks_drn()
    (fake_mmaction / 'drn').mkdir()
    (fake_mmaction / 'drn' / 'drn.py').touch()
    assert not compat.mmaction_lacks_drn()
    compat.apply()
    assert compat.DRN_PACKAGE not in sys.modules


def test_the_stand_in_imports_nothing_and_says_so_when_built(fake_mmaction: Path) -> None:
    compat.apply()
    assert 'mmaction' not in sys.modules
    (fake_mmaction / '__init__.py').write_text('from .drn.drn import DRN\n')
    from mmaction.models.localizers import DRN

    with pytest.raises(ImportError, match=r'DRN cannot be built: .*mmaction\.models\.localizers\.drn.*git repository'):
        DRN(vocab_size=10)


def test_without_mmaction_there_is_no_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'mmaction', None)
    monkeypatch.delitem(sys.modules, compat.DRN_PACKAGE, raising=False)
    assert not compat.mmaction_lacks_drn()
    compat.apply()
    assert compat.DRN_PACKAGE not in sys.modules


def test_the_installed_mmaction_imports() -> None:
    code = 'import dynperceiver_action.compat, mmaction.models, mmaction.datasets'
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
