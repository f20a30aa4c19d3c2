"""A bulk load stamps all its records with one and the same time; the real program delivers them."""

import io

import duckdb
import fastavro

from tests.support.deployment import Deployment
from tests.support.openssh import OpenSSHServer
from tests.support.warehouse import make_warehouse

DAY = "2026-11-20"
NOON = 1_795_176_000
RECORDS = 12_000


def test_records_of_one_second_are_delivered_in_the_order_of_their_guids(tmp_path):
    with OpenSSHServer(tmp_path) as server:
        deployment = Deployment(tmp_path, server)
        party = deployment.add_client(resources=["tags"])
        make_warehouse(deployment.warehouse, clients=[], days=[])
        with duckdb.connect(str(deployment.warehouse)) as connection:
            connection.execute(
                "insert into tags by name select 'TAG-' || lpad(i::varchar, 6, '0') as guid, "
                f"repeat(i::varchar, 400) as name, '{party.guid}' as client_guid, "
                f"{NOON} as created_at from range({RECORDS}) t(i) order by hash(i)"
            )
        deployment.document["sources"]["warehouse"]["memory_limit"] = "20MB"

        done = deployment.run("run", "--date", DAY)

        assert done.returncode == 0, done.stderr
        content = party.decrypted()[f"{party.guid}.{DAY}.tags.created.avro.pgp"]
    records = list(fastavro.reader(io.BytesIO(content)))
    assert [record["guid"] for record in records] == [f"TAG-{i:06d}" for i in range(RECORDS)]
    assert records[777]["name"] == "777" * 400
