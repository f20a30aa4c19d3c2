"""What a recipient's `verify` reads, damaged on purpose: manifests, Avro files, whole folders.

Only the program's own findings come out, and nothing that differs from its manifest passes.
"""

import contextlib
import csv
import io
import json
import tempfile
import tracemalloc
from hashlib import sha256
from pathlib import Path

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxdeliver.core import manifest
from mxdeliver.edge.avro import ContainerReader
from mxdeliver.edge.avro.container import MAGIC, encode_long
from mxdeliver.edge.openpgp import decrypt
from mxdeliver.receive import FaultCode, verify
from tests.support.certificates import GnuPG
from tests.support.fuzzing import examples
from tests.support.key_pairs import encrypt, key_pair
from tests.support.received import COLUMNS, SCHEMA

GUID = "CLT-0858efd1-2d2e-6a5d-f2b5-c7dad42ef184"
STEM = f"{GUID}.2026-01-01.users"
MEGABYTE = 1024 * 1024
CODES = {code.value for code in FaultCode}


@pytest.fixture(scope="module")
def pair():
    with GnuPG() as home:
        yield key_pair(home, "Curve25519")


# -- manifests -------------------------------------------------------------------------------------

CELLS = st.one_of(
    st.sampled_from(
        ["USERS", "users", "CREATED", "0", "5", "-1", "\uff11", "9" * 5_000, "2026-01-01", "2026-13-01",
         "0" * 64, "A" * 64, f"{STEM}.created", f"{STEM}.created\n", "=1+1", "@x", "\x1b[2J", "", " "]
    ),
    st.text(max_size=20),
)  # fmt: skip
HEADERS = st.lists(st.sampled_from([*COLUMNS, "Other", ""]), max_size=10) | st.just(COLUMNS)


def parsed(content):
    """Give the rows, or none and what is wrong."""
    try:
        return manifest.parse(content), ""
    except ValueError as error:
        return (), str(error)


@examples(200)
@given(
    HEADERS, st.lists(st.lists(CELLS, min_size=7, max_size=9), max_size=4), st.binary(max_size=4)
)
def test_any_table_is_a_manifest_or_a_value_error_that_tells_no_cell(header, rows, tail):
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    content = text.getvalue().encode("utf-8", "surrogatepass") + tail
    found, complaint = parsed(content)
    assert not complaint or complaint.isprintable()
    assert len(complaint) < 200
    assert all(row.record_count >= 0 and len(row.checksum) == 64 for row in found)


# -- Avro files ------------------------------------------------------------------------------------


def container(codec):
    made = io.BytesIO()
    records = [{"guid": f"USR-{number}", "balance": number / 4} for number in range(60)]
    fastavro.writer(made, SCHEMA, records, codec=codec, sync_interval=300)
    return made.getvalue()


FILES = [container("null"), container("deflate")]
NUMBERS = st.sampled_from([0, 1, -1, 2, 2**31, -(2**31), 2**62, -(2**63), 2**63 - 1]) | st.integers(
    -(2**63), 2**63 - 1
)
PARTS = st.one_of(
    NUMBERS.map(encode_long),
    st.binary(max_size=20),
    st.binary(max_size=20).map(lambda data: encode_long(len(data)) + data),
    st.sampled_from([b"\xff" * 11, b"\x80" * 9 + b"\1", b"\x16avro.schema", b"\x14avro.codec"]),
)


def count(data, step):
    reader = ContainerReader()
    for at in range(0, len(data), step):
        reader.write(data[at : at + step])
    return reader.finish()


@examples(200)
@given(data=st.data(), number=st.integers(0, 1), step=st.sampled_from([1, 7, 100_000]))
def test_a_damaged_avro_file_is_counted_or_a_value_error(data, number, step):
    damaged = bytearray(FILES[number])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 3))] = data.draw(PARTS)
    with contextlib.suppress(ValueError):
        assert count(bytes(damaged), step) >= 0


@examples(200)
@given(st.lists(PARTS, max_size=12).map(b"".join), st.sampled_from([1, 100_000]))
def test_any_parts_in_a_row_are_no_avro_file_or_counted(data, step):
    for whole in (MAGIC + data, FILES[0][: len(FILES[0]) // 8] + data):
        with contextlib.suppress(ValueError):
            assert count(whole, step) >= 0


@pytest.mark.parametrize(
    "head",
    [
        MAGIC + encode_long(2**62),
        MAGIC + encode_long(1) + encode_long(2**62),
        MAGIC + encode_long(-(2**63)) + encode_long(2**62),
        MAGIC + (encode_long(-1) + encode_long(9) + b"\0\0") * 500_000,
        MAGIC + encode_long(2**40) + b"\0\0" * 500_000,
    ],
    ids=["entries", "key", "negative", "blocks", "empty entries"],
)
def test_a_header_without_end_takes_bounded_memory(head):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"header|cut short"):
            count(head + bytes([1]) * MEGABYTE, 64 * 1024)
        assert tracemalloc.get_traced_memory()[1] < 64 * MEGABYTE
    finally:
        tracemalloc.stop()


# -- whole folders ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def day(pair):
    """One resource's day as (name, plain bytes) with the manifest last, and how to encrypt it."""
    recipients = pair.certificate.encryption_keys
    plain = {f"{STEM}.{event}.avro.pgp": FILES[0] for event in ("created", "updated", "deleted")}
    encrypted = {name: encrypt(recipients, data) for name, data in plain.items()}
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for name, data in plain.items():
        stem = name.removesuffix(".avro.pgp")
        event = stem.rpartition(".")[2].upper()
        checksum = sha256(data).hexdigest()
        row = ["USERS", event, 60, "2026-01-01", len(data), len(encrypted[name]), checksum, stem]
        table.writerow(row)
    return encrypted, text.getvalue().encode()


@examples(40)
@given(data=st.data())
def test_a_folder_in_which_anything_was_changed_never_passes(pair, day, data):
    encrypted, rows = day
    recipients = pair.certificate.encryption_keys
    files = dict(encrypted)
    content = rows
    place = data.draw(st.sampled_from([*files, "rows", "manifest"]))
    damage = data.draw(st.binary(min_size=1, max_size=12))
    if place == "rows":
        at = data.draw(st.integers(0, len(rows) - 1))
        content = rows[:at] + damage + rows[at + data.draw(st.integers(0, 3)) :]
    name = f"{GUID}.2026-01-01-manifest.csv.pgp"
    files[name] = encrypt(recipients, content)
    if place in encrypted or place == "manifest":
        target = name if place == "manifest" else place
        at = data.draw(st.integers(0, len(files[target]) - 1))
        before = files[target]
        files[target] = before[:at] + damage + before[at + len(damage) :]
        same = files[target] == before
    else:
        same = parsed(content) == parsed(rows)
    with tempfile.TemporaryDirectory() as folder:
        for one, its_bytes in files.items():
            Path(folder, one).write_bytes(its_bytes)
        verdict = verify(Path(folder), pair.keyring)
    assert {fault.code.value for fault in verdict.faults} <= CODES
    assert all(str(fault).isprintable() for fault in verdict.faults)
    assert same is not bool(verdict.faults), json.dumps([str(one) for one in verdict.faults])


@examples(40)
@given(st.binary(max_size=400))
def test_any_plain_bytes_in_a_message_are_told_apart_from_a_day(pair, data):
    message = encrypt(pair.certificate.encryption_keys, data)
    found = bytearray()
    decrypt(io.BytesIO(message), pair.keyring, found.extend)
    assert bytes(found) == data
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"{GUID}.2026-01-01-manifest.csv.pgp").write_bytes(message)
        Path(folder, f"{STEM}.created.avro.pgp").write_bytes(message)
        assert verify(Path(folder), pair.keyring).faults
