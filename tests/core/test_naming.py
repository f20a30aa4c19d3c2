from datetime import date

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mxdeliver.core import naming
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.model import DailyFile, EventType, ManifestFile

GUID = "CLT-0858efd1-2d2e-6a5d-f2b5-c7dad42ef184"
CLIENT_GUIDS = st.builds(
    "{}-{}".format,
    st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=3, max_size=3),
    st.uuids().map(str),
)
SNAPSHOT_DATES = st.dates(date(2, 1, 1), date(9998, 12, 31)).map(SnapshotDate.of)
DAILY_FILES = st.builds(
    DailyFile,
    client_guid=CLIENT_GUIDS,
    snapshot_date=SNAPSHOT_DATES,
    resource=st.from_regex(naming.RESOURCE_NAME, fullmatch=True),
    event=st.sampled_from(EventType),
)
MANIFESTS = st.builds(ManifestFile, client_guid=CLIENT_GUIDS, snapshot_date=SNAPSHOT_DATES)
SUFFIXES = st.from_regex(naming.FILE_SUFFIX, fullmatch=True)


def test_names_are_those_of_the_clients_contract():
    day = SnapshotDate(2020, 6, 14)
    file = DailyFile(client_guid=GUID, snapshot_date=day, resource="users", event=EventType.DELETED)
    manifest = ManifestFile(client_guid=GUID, snapshot_date=day)
    assert naming.file_stem(file) == f"{GUID}.2020-06-14.users.deleted"
    assert naming.file_name(file, ".avro.pgp") == f"{GUID}.2020-06-14.users.deleted.avro.pgp"
    assert naming.file_name(manifest, ".gpg") == f"{GUID}.2020-06-14-manifest.csv.pgp"


@given(DAILY_FILES, SUFFIXES)
def test_a_daily_files_name_is_read_back(file, suffix):
    assert naming.parse_stem(naming.file_stem(file)) == file
    assert naming.parse_file_name(naming.file_name(file, suffix)) == file
    assert naming.parse_file_name(naming.file_stem(file)) == file


@given(MANIFESTS)
def test_a_manifests_name_is_read_back(manifest):
    assert naming.parse_file_name(naming.file_name(manifest, ".avro.pgp")) == manifest


@given(DAILY_FILES | MANIFESTS, SUFFIXES)
def test_names_are_safe_for_any_server(file, suffix):
    name = naming.file_name(file, suffix)
    assert "/" not in name
    assert name.isascii()
    assert not name.startswith((".", "-"))
    assert len(name) <= 255


@given(DAILY_FILES, DAILY_FILES, SUFFIXES)
def test_different_files_have_different_names(one, other, suffix):
    assume(one != other)
    names = {naming.file_name(file, suffix).casefold() for file in (one, other)}
    assert len(names) == 2, "on servers that tell no case apart, too"


@given(st.text())
def test_any_text_is_a_name_of_ours_or_refused(text):
    try:
        file = naming.parse_file_name(text)
    except ValueError:
        return
    assert text.startswith(f"{file.client_guid}.{file.snapshot_date.isoformat()}")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "notes.txt",
        f"{GUID}.2020-06-14.users",
        f"{GUID}.2020-06-14.users.created-old.avro.pgp",
        f"{GUID}.2020-06-14.users.createdx",
        f"{GUID}.2020-06-14.Users.created.avro.pgp",
        f"{GUID}.2020-06-14.users.CREATED.avro.pgp",
        f"{GUID}.2020-02-30.users.created.avro.pgp",
        f"{GUID}.2020-6-14.users.created.avro.pgp",
        f"{GUID[:-1]}.2020-06-14.users.created.avro.pgp",
        f"{GUID}.2020-06-14-manifest.csv",
        f"{GUID}.2020-06-14-manifest.csv.pgp.1",
        f"x/{GUID}.2020-06-14.users.created.avro.pgp",
        f".{GUID}.2020-06-14.users.created.avro.pgp",
    ],
)
def test_what_is_not_a_name_of_ours_is_refused(name):
    with pytest.raises(ValueError, match=r"neither|day|month"):
        naming.parse_file_name(name)


@pytest.mark.parametrize("stem", [f"{GUID}.2020-06-14.users.created.avro", "users.created", ""])
def test_a_stem_has_no_suffix(stem):
    with pytest.raises(ValueError, match="not the name of a daily file"):
        naming.parse_stem(stem)


@given(
    DAILY_FILES | MANIFESTS,
    SUFFIXES,
    st.integers(0, 2**63),
    st.integers(0, 2**32 - 1).map("{:08x}".format),
)
def test_a_temporary_name_is_hidden_and_tells_what_it_stands_for(file, suffix, token, nonce):
    final = naming.file_name(file, suffix)
    temporary = naming.temporary_name(final, token=token, nonce=nonce)
    assert temporary.startswith(".")
    assert naming.final_name_of(temporary) == final
    with pytest.raises(ValueError, match="neither"):
        naming.parse_file_name(temporary)


@pytest.mark.parametrize("name", ["a.csv", ".a.part", ".a.1-0123456g.part", ".a.1-01234567.par"])
def test_a_name_without_token_and_nonce_is_no_temporary_name(name):
    with pytest.raises(ValueError, match="not a temporary name"):
        naming.final_name_of(name)
