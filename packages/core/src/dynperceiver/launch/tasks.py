"""What command lines have to know of a task, such as how it draws; every task package registers its own with :func:`register_task`.

A config names its task by ``default_scope``, or by the prefix of its model's type. The task is known once its package was imported, which
``custom_imports`` of a config sees to. Configs of other OpenMMLab projects name no package of this project; for them the installed packages
whose names begin with this one's are imported, until one knows their scope.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from ..registry import SCOPE

__all__ = ['TaskSupport', 'TestTimeAugmentation', 'all_tasks', 'register_task', 'task_of', 'task_of_hook']

NO_TASK = ('', SCOPE, 'mmengine')  # scopes that say nothing of the task


@dataclass(frozen=True)
class TestTimeAugmentation:
    """What ``--tta`` takes where a config has no test-time augmentation of its own.

    Attributes:
        source: Whose defaults they are, for the log.
        model: ``tta_model`` of the config.
        model_in_words: The same for the log.
        pipeline: Makes ``tta_pipeline`` of the pipeline of the test; raises a ``UsageError`` for a pipeline that it cannot change.
        pipeline_in_words: The same for the log.
    """

    __test__ = False  # pytest would take it for a test

    source: str
    model: Mapping[str, Any]
    model_in_words: str
    pipeline: Callable[[Sequence[Any]], list[Any]]
    pipeline_in_words: str


def draw_settings(show: bool, out_dir: str | None, wait_time: float, interval: int) -> dict[str, Any]:
    """Settings of this project's hooks, and of others with the same arguments, that draw predictions.

    Args:
        show: Whether to show pictures in a window.
        out_dir: Folder for pictures, if any.
        wait_time: Seconds to show each picture.
        interval: Draw every N-th sample.
    """
    return dict(enable=True, show=show, out_dir=out_dir, wait_time=wait_time, interval=interval)


@dataclass(frozen=True)
class TaskSupport:
    """What command lines have to know of a task.

    Attributes:
        name: The task in words, such as ``'image classification'``.
        models: What its models are called, such as ``'classifiers'``.
        scopes: Scopes of MMEngine's registries in which configs of this task look for names.
        has_exits: Whether samples can leave its networks early.
        draw_hook: Type of the hook that draws predictions.
        draws_unasked: Whether ``--show`` adds that hook to a config that has none.
        draw_settings: See :func:`draw_settings`; raises a ``UsageError`` for what the hook cannot do.
        dump_metric: Type of the metric that saves predictions.
        tta: Test-time augmentation for configs without one; ``None`` where each config needs its own.
    """

    name: str
    models: str
    scopes: tuple[str, ...]
    has_exits: bool
    draw_hook: str
    draws_unasked: bool = False
    draw_settings: Callable[..., dict[str, Any]] = draw_settings
    dump_metric: str = 'mmengine.DumpResults'
    tta: TestTimeAugmentation | None = None


_TASKS: dict[str, TaskSupport] = {}


def register_task(task: TaskSupport) -> TaskSupport:
    """Make a task known to the command lines.

    Returns:
        The task.

    Raises:
        ValueError: If one of this name is known already.
    """
    if task.name in _TASKS:
        raise ValueError(f'a task named {task.name!r} exists already; names are unique, choose another')
    _TASKS[task.name] = task
    return task


def all_tasks() -> list[TaskSupport]:
    """The tasks of all installed packages, by name."""
    for _ in _import_tasks():
        pass
    return [_TASKS[name] for name in sorted(_TASKS)]


def task_of(cfg: Config) -> TaskSupport | None:
    """The task of a config, ``None`` where no installed package knows it."""
    model = cfg.get('model')
    kind = model.get('type') if isinstance(model, Mapping) else None
    prefix = kind.rpartition('.')[0] if isinstance(kind, str) else ''
    scopes = [scope for scope in (prefix, cfg.get('default_scope') or '') if scope not in NO_TASK]
    found = _find(scopes)
    if found is None and scopes:
        for _ in _import_tasks():
            found = found or _find(scopes)
            if found is not None:
                break
    return found


def task_of_hook(kind: str) -> TaskSupport | None:
    """The task whose hook draws predictions, by the hook's type; ``None`` for other hooks."""
    name = kind.rpartition('.')[2]
    return next((task for task in _TASKS.values() if task.draw_hook.rpartition('.')[2] == name), None)


def _find(scopes: Sequence[str]) -> TaskSupport | None:
    return next((task for scope in scopes for task in _TASKS.values() if scope in task.scopes), None)


def _import_tasks() -> Iterator[None]:
    """Import the packages beside this one, one by one; those whose OpenMMLab project is not installed have no configs to run either."""
    for module in pkgutil.iter_modules():
        if module.ispkg and module.name.startswith(f'{SCOPE}_'):
            try:
                importlib.import_module(module.name)
            except ImportError:
                continue
            yield
