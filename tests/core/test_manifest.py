import contextlib
import csv
import io
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxdeliver.core import manifest, naming
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.model import Artifact, DailyFile, EffectiveDateForm, EventType, ManifestFile
from tests.core.test_naming import DAILY_FILES

GUID = "CLT-0858efd1-2d2e-6a5d-f2b5-c7dad42ef184"
# The example of the clients' contract, whose rows are all those it shows.
SAMPLE = f"""\
ResourceType,EventType,RecordCount,EffectiveDate,FileSize,EncryptedFileSize,Checksum,FileName
USERS,DELETED,0,2020-06-14,1274,1198,8f3bd95d1c7dce50bee215dd8271bdc9b3409ef2cfb057cc7617f91686d28091,{GUID}.2020-06-14.users.deleted
USERS,UPDATED,0,2020-06-14,1274,1187,f3318a7071074bd0cb70bc4f0ce5d51cca0cc5bdfdc8d4b1054446f6fa6dbc98,{GUID}.2020-06-14.users.updated
TRANSACTIONS,DELETED,0,2020-06-14,3107,3057,5dc55906519b3936ab9dbc5857db8605cf71f875085d9b359e654d48042ce691,{GUID}.2020-06-14.transactions.deleted
""".encode()
CONSUMPTION_ORDER = [
    "users", "members", "accounts", "transactions", "holdings", "categories", "tags", "taggings",
    "goals", "budgets", "notification_profiles", "beat", "beat_feedback", "devices",
    "analytics_events", "analytics_pageviews", "analytics_screenviews", "analytics_timed_events",
    "insights",
]  # fmt: skip
NUMBERS = st.integers(0, 2**63 - 1)
ARTIFACTS = st.builds(
    Artifact,
    identity=DAILY_FILES,
    name=st.just("ignored"),
    record_count=NUMBERS,
    file_size=NUMBERS,
    checksum=st.binary(min_size=32, max_size=32).map(bytes.hex),
    encrypted_file_size=NUMBERS,
    encrypted_checksum=st.just("0" * 64),
)


def artifact(resource, event, **changes):
    identity = DailyFile(
        client_guid=GUID, snapshot_date=SnapshotDate(2020, 6, 14), resource=resource, event=event
    )
    facts = {
        "name": naming.file_name(identity, ".avro.pgp"),
        "record_count": 0,
        "file_size": 1274,
        "checksum": "8f3bd95d1c7dce50bee215dd8271bdc9b3409ef2cfb057cc7617f91686d28091",
        "encrypted_file_size": 1198,
        "encrypted_checksum": "0" * 64,
    }
    return Artifact(identity=identity, **(facts | changes))


def test_the_contracts_sample_is_read_and_written_byte_for_byte():
    rows = manifest.parse(SAMPLE)
    assert [(row.identity.resource, row.identity.event.value) for row in rows] == [
        ("users", "DELETED"), ("users", "UPDATED"), ("transactions", "DELETED"),
    ]  # fmt: skip
    assert (rows[2].file_size, rows[2].encrypted_file_size) == (3107, 3057)
    artifacts = [
        artifact(
            row.identity.resource,
            row.identity.event,
            checksum=row.checksum,
            file_size=row.file_size,
            encrypted_file_size=row.encrypted_file_size,
        )
        for row in rows
    ]
    assert manifest.render(artifacts, EffectiveDateForm.DATE) == SAMPLE


@given(st.lists(ARTIFACTS, max_size=8), st.sampled_from(EffectiveDateForm))
def test_what_was_rendered_is_parsed_back(artifacts, form):
    rows = manifest.parse(manifest.render(artifacts, form))
    assert rows == tuple(
        manifest.ManifestRow(
            identity=artifact.identity,
            record_count=artifact.record_count,
            effective_date=manifest.effective_date(artifact.identity, form),
            file_size=artifact.file_size,
            encrypted_file_size=artifact.encrypted_file_size,
            checksum=artifact.checksum,
        )
        for artifact in artifacts
    )


@given(st.lists(ARTIFACTS, min_size=1, max_size=8))
def test_the_manifest_is_plain_utf_8_csv_with_unix_line_ends(artifacts):
    content = manifest.render(artifacts, EffectiveDateForm.DATE)
    assert content.startswith(SAMPLE.split(b"\n")[0] + b"\n")
    assert content.endswith(b"\n")
    assert b"\r" not in content
    assert b'"' not in content
    table = list(csv.DictReader(io.StringIO(content.decode("utf-8"))))
    assert [row["FileName"] for row in table] == [
        naming.file_stem(artifact.identity) for artifact in artifacts
    ]


def test_the_timestamp_form_says_midnight_utc():
    content = manifest.render([artifact("users", EventType.CREATED)], EffectiveDateForm.TIMESTAMP)
    assert b",2020-06-14T00:00:00Z," in content


def test_a_manifest_does_not_list_itself():
    day = ManifestFile(client_guid=GUID, snapshot_date=SnapshotDate(2020, 6, 14))
    itself = Artifact(
        identity=day, name="x", record_count=0, file_size=1, checksum="0" * 64,
        encrypted_file_size=1, encrypted_checksum="0" * 64,
    )  # fmt: skip
    with pytest.raises(TypeError, match="itself"):
        manifest.render([itself], EffectiveDateForm.DATE)


def test_a_cell_that_a_spreadsheet_would_calculate_is_never_written():
    with pytest.raises(ValueError, match="formula"):
        manifest.render(
            [artifact("users", EventType.CREATED, record_count=-1)], EffectiveDateForm.DATE
        )


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_no_cell_of_any_row_may_begin_like_a_formula(start):
    whole = artifact("users", EventType.CREATED)
    poisoned = replace(whole, checksum=start + whole.checksum[1:])
    with pytest.raises(ValueError, match="formula"):
        manifest.render([whole, poisoned], EffectiveDateForm.DATE)


def test_creates_and_updates_come_from_users_on_and_deletes_in_reverse():
    resources = {*CONSUMPTION_ORDER, *manifest.STANDARD_RESOURCES, "zebra", "aardvark"}
    others = sorted(resources - set(CONSUMPTION_ORDER))
    pairs = [(name, event) for name in resources for event in EventType]
    random.Random(7).shuffle(pairs)
    forwards = [*CONSUMPTION_ORDER, *others]
    assert manifest.consumption_order(pairs) == [
        *((name, EventType.CREATED) for name in forwards),
        *((name, EventType.UPDATED) for name in forwards),
        *((name, EventType.DELETED) for name in reversed(forwards)),
    ]


@given(st.lists(st.tuples(DAILY_FILES.map(lambda file: file.resource), st.sampled_from(EventType))))
def test_ordering_loses_nothing_and_does_not_depend_on_the_order_given(pairs):
    ordered = manifest.consumption_order(pairs)
    assert sorted(ordered) == sorted(pairs)
    assert ordered == manifest.consumption_order(reversed(pairs))


def test_the_standard_resources_are_the_contracts_21():
    assert (
        *CONSUMPTION_ORDER[:18],
        "discovered_accounts",
        "discovered_transactions",
        "user_communication_profiles",
    ) == manifest.STANDARD_RESOURCES


def test_columns_are_found_by_name_with_a_byte_order_mark_and_windows_line_ends():
    header, row = SAMPLE.decode().splitlines()[:2]
    names, cells = header.split(","), row.split(",")
    order = [7, 3, 0, 5, 1, 2, 6, 4]
    lines = [",".join(line[place] for place in order) for line in (names, cells)]
    content = "\ufeff" + "\r\n".join(line + ",more" for line in lines) + "\r\n"
    assert manifest.parse(content.encode("utf-8")) == manifest.parse(SAMPLE)[:1]


def test_old_line_ends_are_read_too_and_a_quoted_cell_is_left_as_it_is():
    quoted = SAMPLE.replace(b"\n", b"\r").replace(b"2020-06-14,", b'"2020-06-14\r\n",', 1)
    first, *others = manifest.parse(quoted)
    assert first.effective_date == "2020-06-14\r\n"
    assert tuple(others) == manifest.parse(SAMPLE)[1:]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (b"RecordCount", b"Records", "lacks columns"),
        (SAMPLE, b"", "lacks columns"),
        (b"USERS,DELETED", b"\xff\xfe,DELETED", "not UTF-8"),
        (b"USERS,DELETED", b'"USERS"x,DELETED', "line 2: not CSV"),
        (b"TRANSACTIONS,DELETED", b"TRANSACTIONS", "line 4: 7 cells instead of 8"),
        (b"USERS,UPDATED", b"MEMBERS,UPDATED", "line 3: ResourceType or EventType"),
        (b"USERS,UPDATED", b"users,UPDATED", "line 3: ResourceType or EventType"),
        (b"users.updated", b"users.upserted", "line 3: FileName"),
        (b"8f3bd95d", b"8F3BD95D", "line 2: Checksum"),
        (b"8f3bd95d", b"8f3bd95", "line 2: Checksum"),
        (b"8f3bd95d", b"Xf3bd95d", "line 2: Checksum"),
        (b"DELETED,0,", b"DELETED,-1,", "line 2: RecordCount"),
        (b"DELETED,0,", b"DELETED,,", "line 2: RecordCount"),
        (b"1274,1187", "١٢٧٤,1187".encode(), "line 3: FileSize"),
        (b"1274,1187", b"1274,12345678901234567890", "line 3: EncryptedFileSize"),
    ],
)
def test_a_wrong_line_is_named(old, new, problem):
    with pytest.raises(ValueError, match=problem):
        manifest.parse(SAMPLE.replace(old, new, 1))


@given(st.binary())
def test_any_bytes_are_a_manifest_or_a_value_error(content):
    with contextlib.suppress(ValueError):
        manifest.parse(content)


@given(st.data())
def test_a_damaged_manifest_is_a_manifest_or_a_value_error(data):
    content = bytearray(SAMPLE)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(
            st.sampled_from([b"", b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"9" * 20])
        )
    try:
        rows = manifest.parse(bytes(content))
    except ValueError:
        return
    assert all(len(row.checksum) == 64 for row in rows)
