"""What all tests share: patience with busy machines, and a process that stays as it was."""

import logging
import os

import pytest
from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def process_as_it_was():
    """Undo what a command that was run inside the tests' own process has asked for it."""
    mask = os.umask(0o022)
    yield
    os.umask(mask)
    logging.raiseExceptions = True
