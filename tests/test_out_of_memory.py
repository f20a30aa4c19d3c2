"""The real program without memory: killed by the kernel for it, or refused it by the kernel."""

from __future__ import annotations

import signal
from contextlib import contextmanager

import pytest

from tests.support import memory_group
from tests.support.deployment import kill
from tests.support.invariants import watched
from tests.support.openssh import wait_until
from tests.support.outcomes import DAY, FILES, add_client, fill, small_deployment
from tests.support.proxy import Proxy

IN_THE_UPLOAD = 30_000


@pytest.fixture
def deployment(tmp_path, server):
    return small_deployment(tmp_path, server)


@contextmanager
def killed_by_the_kernel_for_its_memory():
    """Give the start of a command line, and what has the process killed that it begins."""
    with memory_group.memory_group() as group:
        yield group.wrapper, lambda _: group.exhaust()


@contextmanager
def killed_by_a_signal():
    """The same end where no memory control group can be made: what the kernel sends, too."""
    yield [], lambda process: process.kill()


KILLERS = [killed_by_a_signal]
if memory_group.is_possible():
    KILLERS.append(killed_by_the_kernel_for_its_memory)


@pytest.mark.parametrize("killer", KILLERS, ids=lambda killer: killer.__name__)
def test_killed_in_the_upload_it_leaves_nothing_and_the_next_run_makes_it_whole(
    deployment, server, killer
):
    """By the kernel for its memory wherever that can be arranged; the name of what ran tells."""
    with killer() as (wrapper, end), Proxy(server.port) as proxy:
        proxy.hold_after = {1: IN_THE_UPLOAD}
        party = add_client(deployment, "Heavy", sftp={"port": proxy.port})
        fill(deployment, rows=3_000)
        with watched(deployment, party) as watch:
            process = deployment.start("run", "--date", str(DAY), wrapper=wrapper)
            try:
                wait_until(lambda: proxy.seen > IN_THE_UPLOAD, "the upload")
                end(process)
                wait_until(lambda: process.poll() is not None, "the process to be killed")
            finally:
                kill(process)
            assert process.returncode == -signal.SIGKILL
            assert party.received() == {}
            watch.look_at_rest()
            again = watch.ran(deployment.run("run", "--date", str(DAY)))
            assert again.returncode == 0, again.stderr
    assert len(party.received()) == FILES


def test_refused_the_memory_that_it_needs_it_ends_by_name_and_resumed_the_day_is_whole(deployment):
    party = add_client(deployment, "Heavy")
    fill(deployment)
    with watched(deployment, party) as watch:
        script = 'ulimit -v 600000 && exec "$0" "$@"'
        process = deployment.start("run", "--date", str(DAY), wrapper=["sh", "-c", script])
        _, errors = process.communicate(timeout=60)
        assert process.returncode in {1, 70}
        assert errors
        assert "Traceback" not in errors
        assert party.received() == {}
        watch.look_at_rest()
        # failed as INTERNAL or parked as SOURCE_MEMORY, by where it was refused
        watch.ran(deployment.run("resume", "--client", "Heavy"))
        again = watch.ran(deployment.run("run", "--date", str(DAY)))
        assert again.returncode == 0, again.stderr
    assert len(party.received()) == FILES
