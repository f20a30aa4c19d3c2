"""The real program without memory: killed by the kernel for it, or refused by the kernel."""

from __future__ import annotations

import signal

import pytest

from tests.support.deployment import kill
from tests.support.invariants import watched
from tests.support.memory_group import memory_group
from tests.support.openssh import OpenSSHServer, wait_until
from tests.support.outcomes import DAY, FILES, add_client, fill, small_deployment
from tests.support.proxy import Proxy

IN_THE_UPLOAD = 30_000


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with OpenSSHServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def deployment(tmp_path, server):
    return small_deployment(tmp_path, server)


def test_killed_by_the_kernel_for_its_memory_in_the_upload_the_next_run_makes_it_whole(
    deployment, server
):
    with memory_group() as group, Proxy(server.port) as proxy:
        if group is None:
            pytest.skip("nobody may make a memory control group here")
        proxy.hold_after = {1: IN_THE_UPLOAD}
        party = add_client(deployment, "Heavy", sftp={"port": proxy.port})
        fill(deployment, rows=3_000)
        with watched(deployment, party) as watch:
            process = deployment.start("run", "--date", str(DAY), wrapper=group.wrapper)
            try:
                wait_until(lambda: proxy.seen > IN_THE_UPLOAD, "the upload")
                group.exhaust()
                wait_until(lambda: process.poll() is not None, "the kernel to have killed it")
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
