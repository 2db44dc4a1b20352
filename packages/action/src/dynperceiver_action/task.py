"""What the command lines know of action recognition."""

from __future__ import annotations

from dynperceiver.launch.tasks import TaskSupport, register_task

from .registry import SCOPE

__all__ = ['ACTION_RECOGNITION']

ACTION_RECOGNITION = register_task(
    TaskSupport(
        name='action recognition',
        models='recognizers',
        scopes=('mmaction', SCOPE),
        has_exits=True,
        draw_hook=f'{SCOPE}.DrawPredictionsHook',
    )
)
