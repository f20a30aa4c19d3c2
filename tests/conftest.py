"""What all tests share: patience with busy machines, a process that stays as it was, and servers.

A module that needs another server or key ring has a fixture of its own under the same name.
"""

import logging
import os

import pytest
from hypothesis import settings

from tests.support.certificates import GnuPG
from tests.support.openssh import OpenSSHServer
from tests.support.pushing import a_sender

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def process_as_it_was():
    """Undo what a command that was run inside the tests' own process has asked for it."""
    mask = os.umask(0o022)
    yield
    os.umask(mask)
    logging.raiseExceptions = True


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An OpenSSH server for a module's tests."""
    with OpenSSHServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def gnupg():
    """An empty key ring of gpg."""
    with GnuPG() as home:
        yield home


@pytest.fixture
def sender(tmp_path, server):
    """A sealed delivery, about to be sent to the module's server."""
    with a_sender(tmp_path, server) as prepared:
        yield prepared
