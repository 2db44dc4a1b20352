"""Command lines learn from the task packages what they have to know of a task."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from dynperceiver.launch import tasks
from dynperceiver.launch.tasks import TaskSupport, all_tasks, register_task, task_of, task_of_hook

HEARING = TaskSupport('hearing', 'ears', ('mmaudio', 'ears'), has_exits=True, draw_hook='ears.DrawSound')


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Only the task of this test is known; the list counts how often the installed packages are looked through."""
    looks: list[int] = []
    monkeypatch.setattr(tasks, '_TASKS', {})
    monkeypatch.setattr(tasks.pkgutil, 'iter_modules', lambda: looks.append(1) or [])
    register_task(HEARING)
    return looks


@pytest.mark.parametrize(
    'cfg', [{'default_scope': 'mmaudio'}, {'model': {'type': 'ears.Ear'}}, {'default_scope': 'mmengine', 'model': {'type': 'mmaudio.Ear'}}]
)
def test_a_task_is_found_by_scope_or_model(known: list[int], cfg: dict[str, object]) -> None:
    assert task_of(Config(cfg)) is HEARING
    assert not known, 'nothing is imported for a task that is known'


@pytest.mark.parametrize('cfg', [{}, {'default_scope': 'mmengine'}, {'model': {'type': 'Ear'}}, {'model': None}, {'model': {'type': int}}])
def test_configs_of_no_task_import_nothing(known: list[int], cfg: dict[str, object]) -> None:
    assert task_of(Config(cfg)) is None
    assert not known


def test_packages_are_looked_through_for_other_scopes(known: list[int]) -> None:
    assert task_of(Config({'default_scope': 'mmsomething'})) is None
    assert known == [1]


def test_names_are_unique(known: list[int]) -> None:
    with pytest.raises(ValueError, match="a task named 'hearing' exists already"):
        register_task(HEARING)
    assert [task.name for task in all_tasks()] == ['hearing']


def test_hooks_are_known_whatever_their_scope(known: list[int]) -> None:
    assert task_of_hook('DrawSound') is task_of_hook('other.DrawSound') is HEARING
    assert task_of_hook('ears.DrawSmell') is None


def test_installed_packages_publish_their_tasks(tmp_path: Path) -> None:
    """In a process of its own, where no config has imported any of them; a package that fails to import is passed over."""
    (tmp_path / 'dynperceiver_a_broken_one').mkdir()
    (tmp_path / 'dynperceiver_a_broken_one' / '__init__.py').write_text('import of_nobody_at_all\n')
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from mmengine.config import Config
from dynperceiver.launch.tasks import all_tasks, task_of
print(task_of(Config(dict(default_scope='mmdet'))).models, task_of(Config(dict(default_scope='mmaction'))).models)
print(*(f'{{task.name}}, {{task.has_exits}}' for task in all_tasks()), sep=chr(10))
"""
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    expected = ['detectors recognizers', 'action recognition, True', 'image classification, True', 'object detection, False']
    assert result.stdout.splitlines() == expected
