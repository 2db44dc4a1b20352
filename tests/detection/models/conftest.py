"""What the models log."""

from __future__ import annotations

import pytest
from mmengine.logging import MMLogger


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Levels and lines that are written to the current logger."""
    lines: list[tuple[int, str]] = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'log', lambda level, message, *_args, **_kwargs: lines.append((level, message)))
    return lines
