"""What the command lines know of image classification."""

from __future__ import annotations

from dynperceiver.launch.tasks import TaskSupport, register_task

from .registry import SCOPE

__all__ = ['CLASSIFICATION']

CLASSIFICATION = register_task(
    TaskSupport(
        name='image classification',
        models='classifiers',
        scopes=(SCOPE,),
        has_exits=True,
        draw_hook=f'{SCOPE}.DrawPredictionsHook',
    )
)
