"""A day delivered, end to end: the real program, OpenSSH, gpg, and a second Avro reader."""

from __future__ import annotations

import csv
import io
from datetime import date
from hashlib import sha256

import avro.datafile
import avro.io
import pytest

from tests.support.deployment import Deployment
from tests.support.openssh import OpenSSHServer
from tests.support.warehouse import make_warehouse

DAY = "2026-11-20"
HEADER = (
    "ResourceType,EventType,RecordCount,EffectiveDate,FileSize,EncryptedFileSize,Checksum,FileName"
)


@pytest.fixture
def server(tmp_path):
    with OpenSSHServer(tmp_path) as running:
        yield running


@pytest.fixture
def deployment(tmp_path, server):
    return Deployment(tmp_path, server)


def filled_warehouse(deployment, **options):
    make_warehouse(
        deployment.warehouse,
        clients=[party.guid for party in deployment.parties],
        days=[date.fromisoformat(DAY)],
        **options,
    )


def rows_read(content):
    with avro.datafile.DataFileReader(io.BytesIO(content), avro.io.DatumReader()) as reader:
        return sum(1 for _ in reader)


def test_a_day_lands_as_63_files_and_a_manifest_that_a_client_can_check(deployment):
    party = deployment.add_client()
    filled_warehouse(deployment, filled=["users", "transactions", "beat"])
    status, document = deployment.run_json("run", "--date", DAY)
    assert (status, document["skipped"]) == (0, [])
    delivered = document["deliveries"][0]
    assert (delivered["state"], delivered["files"], delivered["records"]) == ("delivered", 64, 45)
    received = party.received()
    manifest_name = f"{party.guid}.{DAY}-manifest.csv.pgp"
    assert len(received) == 64
    assert sum(map(len, received.values())) == delivered["bytes"]
    plain = party.decrypted()
    manifest = plain.pop(manifest_name).decode()
    assert manifest.startswith(HEADER + "\n")
    rows = list(csv.DictReader(io.StringIO(manifest)))
    assert len(rows) == 63
    assert {row["FileName"] + ".avro.pgp" for row in rows} == plain.keys()
    assert (rows[0]["ResourceType"], rows[0]["EventType"]) == ("USERS", "CREATED")
    assert (rows[-1]["ResourceType"], rows[-1]["EventType"]) == ("USERS", "DELETED")
    for row in rows:
        name = row["FileName"] + ".avro.pgp"
        stem = f"{party.guid}.{DAY}.{row['ResourceType'].lower()}.{row['EventType'].lower()}"
        assert row["FileName"] == stem
        assert row["EffectiveDate"] == DAY
        assert int(row["EncryptedFileSize"]) == len(received[name])
        assert int(row["FileSize"]) == len(plain[name])
        assert row["Checksum"] == sha256(plain[name]).hexdigest()
        assert int(row["RecordCount"]) == rows_read(plain[name])
    assert sum(int(row["RecordCount"]) for row in rows) == 45
    assert party.leftovers() == []


def test_the_same_day_run_again_opens_no_connection_and_says_so(deployment, server):
    party = deployment.add_client()
    filled_warehouse(deployment)
    assert deployment.run("run", "--date", DAY).returncode == 0
    before = {path.name: path.stat().st_mtime_ns for path in party.directory.iterdir()}
    attempts = server.login_attempts()
    status, document = deployment.run_json("run", "--date", DAY)
    assert status == 0
    assert document["deliveries"][0]["state"] == "delivered"
    assert document["deliveries"][0]["attempts"] == 0
    assert {path.name: path.stat().st_mtime_ns for path in party.directory.iterdir()} == before
    assert server.login_attempts() == attempts


def test_a_run_without_a_date_delivers_the_day_before_and_then_nothing(deployment):
    deployment.add_client(resources=["users"])
    deployment.document["schedule"] = {"due_after": "0s"}  # whatever the time of day
    filled_warehouse(deployment)
    status, document = deployment.run_json("run")
    assert status == 0
    assert [row["state"] for row in document["deliveries"]] == ["delivered"]
    assert deployment.run_json("run")[1]["deliveries"] == []
    assert deployment.run("run").stderr == ""
