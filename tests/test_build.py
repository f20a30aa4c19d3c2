"""What building a day leaves in memory."""

from __future__ import annotations

import gc
from datetime import UTC, datetime

import pytest

from mxdeliver import binding
from mxdeliver.build import Threads, build
from mxdeliver.cli import wiring
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.model import DeliveryKey
from mxdeliver.edge.avro import load_resources
from mxdeliver.edge.openpgp import MessageWriter
from mxdeliver.edge.sources import open_source
from mxdeliver.edge.spool import Spool
from tests.support.openssh import OpenSSHServer
from tests.support.outcomes import DAY, add_client, fill, small_deployment


@pytest.fixture
def deployment(tmp_path):
    with OpenSSHServer(tmp_path) as server:
        made = small_deployment(tmp_path, server)
        add_client(made, "Small", resources=["users"])
        fill(made)
        made.write()
        yield made


@pytest.fixture
def _no_garbage_collection():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_garbage_collection")
def test_the_buffers_of_a_file_are_let_go_of_without_a_garbage_collection(deployment):
    configuration = wiring.load(deployment.config_path)
    (client,) = configuration.clients
    spool = Spool(configuration.state_dir)
    spool.check()
    others = message_writers()  # of tests before this one, which somebody still holds
    under_way = []
    with Threads() as threads:
        built = build(
            DeliveryKey(client_guid=client.guid, snapshot_date=SnapshotDate.of(DAY)),
            client,
            resources=binding.resources_of(client, load_resources()),
            source=open_source(configuration.sources["warehouse"]),
            certificate=binding.certificate(client, datetime.now(UTC)),
            spool=spool,
            threads=threads,
            log=lambda *_, **__: under_way.append(message_writers()),  # a file ends with a line
            stop=lambda: False,
        )
        assert message_writers() == others
    assert under_way == [others + 1] * len(built.artifacts)


def message_writers():
    return sum(type(one) is MessageWriter for one in gc.get_objects())
