"""What the data set logs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from mmengine.logging import MMLogger


@pytest.fixture
def warnings_logged(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """Function that gives the warnings so far."""
    logger = MMLogger.get_instance('test_detection_datasets')
    logger.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    logger.removeHandler(caplog.handler)
