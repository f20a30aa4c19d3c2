import copy
import io
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import fastavro
import pyarrow as pa
import pytest

from mxdeliver.cli import command_line
from mxdeliver.core import manifest, naming
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.model import (
    Artifact,
    Codec,
    DailyFile,
    EffectiveDateForm,
    EventType,
    ManifestFile,
    Verification,
)
from mxdeliver.core.streams import Tally
from mxdeliver.edge.avro import ContainerWriter, load_resources, sync_marker
from mxdeliver.edge.openpgp import MessageWriter, load_secret_key, vet
from mxdeliver.receive import FaultCode, verify
from tests.support.memory import peak_until_end
from tests.support.received import SCHEMA, Day, avro, gnupg

CLIENT = "client@example.test"
STRANGER = "stranger@example.test"
GUARDED = "guarded@example.test"
PASSPHRASE = "so guarded, Ⅳ times"
OTHER_GUID = "CLT-11111111-2d2e-6a5d-f2b5-c7dad42ef184"


@pytest.fixture(scope="module")
def gpg():
    with gnupg() as gpg:
        gpg.make_key(CLIENT, "curve25519")
        gpg.make_key(STRANGER, "curve25519")
        gpg.make_key(GUARDED, "rsa2048", PASSPHRASE)
        yield gpg


@pytest.fixture(scope="module")
def keyring(gpg):
    return load_secret_key(gpg.secret_key(CLIENT, armor=True), None)


@pytest.fixture
def key_file(gpg, tmp_path):
    return secret_key_file(gpg, tmp_path, CLIENT)


def secret_key_file(gpg, folder, user, *, armor=True, passphrase=""):
    path = folder / "secret.key"
    path.write_bytes(gpg.secret_key(user, armor=armor, passphrase=passphrase))
    return path


@pytest.fixture(scope="module")
def made(gpg):
    """A day of two resources, made once; `day` hands out copies to tamper with."""
    day = Day(gpg, CLIENT)
    for number, resource in enumerate(["users", "transactions"]):
        for place, event in enumerate(["created", "updated", "deleted"]):
            records = number * 5000 + place
            day.add(resource, event, avro(records), records)
    return day


@pytest.fixture
def day(made):
    tampered = copy.copy(made)
    tampered.files, tampered.rows = dict(made.files), copy.deepcopy(made.rows)
    return tampered


@pytest.fixture
def faults(keyring):
    """Check a folder and give (file, code) of each fault; all faults name their client and day."""

    def check(folder):
        heard = []
        verdict = verify(folder, keyring, heard.append)
        assert heard == verdict.faults
        assert all(fault.identity for fault in verdict.faults)
        return [(fault.file, fault.code.value) for fault in verdict.faults]

    return check


@pytest.fixture
def run(capsys):
    """Run `mxdeliver verify` and give its exit status, standard output and standard error."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            command_line(["verify", *map(str, arguments)])
        shown = capsys.readouterr()
        return ended.value.code, shown.out, shown.err

    return call


# -- whole days ------------------------------------------------------------------------------------


def test_days_of_an_unrelated_sender_are_found_whole_in_any_suffix_and_folder(
    gpg, made, tmp_path, key_file, run
):
    inbox = made.write(tmp_path / "inbox")
    for guid, date, suffix in [
        (OTHER_GUID, "2026-01-01", ".gpg"),
        (made.client_guid, "2026-01-02", ""),
    ]:
        other = Day(gpg, CLIENT, client_guid=guid, date=date, suffix=suffix)
        for event in ("created", "updated", "deleted"):
            other.add("users", event, avro(3, "null"), 3)
        other.write(inbox / "older" / "ones")
    assert run(inbox, "--secret-key", key_file) == (
        0,
        "3 manifests, 12 daily files, 15024 records checked: all as the manifests say\n",
        "",
    )


def own_day(certificate, folder):
    """Write a day with this program's own writers; give how many records it has."""
    resources = load_resources()
    artifacts = []
    for name in ("users", "categories", "notification_profiles"):
        for event in EventType:
            identity = DailyFile(
                client_guid=OTHER_GUID,
                snapshot_date=SnapshotDate(2026, 3, 29),
                resource=name,
                event=event,
            )
            rows = 5000 if (name, event) == ("users", EventType.CREATED) else 0
            artifacts.append(own_file(identity, resources[name], rows, certificate, folder))
    content = manifest.render(artifacts, EffectiveDateForm.TIMESTAMP)
    day = ManifestFile(client_guid=OTHER_GUID, snapshot_date=SnapshotDate(2026, 3, 29))
    with (folder / naming.file_name(day, "")).open("wb") as file:
        message = MessageWriter(certificate.encryption_keys, file.write)
        message.write(content)
        message.finish()
    return sum(artifact.record_count for artifact in artifacts)


def own_file(identity, resource, rows, certificate, folder):
    name = naming.file_name(identity, ".avro.pgp")
    with (folder / name).open("wb") as file:
        outer = Tally(file.write)
        message = MessageWriter(certificate.encryption_keys, outer.write)
        inner = Tally(message.write)
        container = ContainerWriter(
            resource,
            inner.write,
            codec=Codec.DEFLATE,
            sync_marker=sync_marker(identity, resource),
            verification=Verification.FULL,
        )
        if rows:
            container.write(batch(resource, rows))
        records = container.finish()
        message.finish()
    return Artifact(
        identity=identity,
        name=name,
        record_count=records,
        file_size=inner.size,
        checksum=inner.checksum,
        encrypted_file_size=outer.size,
        encrypted_checksum=outer.checksum,
    )


def batch(resource, rows):
    columns = {}
    for field in resource.fields:
        kind = field.avro_type[-1] if isinstance(field.avro_type, list) else field.avro_type
        value, arrow = {
            "string": ("text", pa.string()),
            "long": (7, pa.int64()),
            "int": (7, pa.int32()),
            "double": (1.5, pa.float64()),
            "boolean": (True, pa.bool_()),
        }[kind]
        columns[field.name] = pa.array([value] * rows, arrow)
    return pa.record_batch(columns)


def test_a_day_of_this_programs_own_writers_is_found_whole(gpg, tmp_path, key_file, run):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    certificate = vet(gpg.run("--export", CLIENT), at=datetime.now(UTC))
    records = own_day(certificate, inbox)
    status, output, errors = run(inbox, "--secret-key", key_file, "--json")
    assert (status, errors, records) == (0, "", 5000)
    assert json.loads(output) == {
        "manifests": [
            {
                "file": f"{OTHER_GUID}.2026-03-29-manifest.csv.pgp",
                "client_guid": OTHER_GUID,
                "snapshot_date": "2026-03-29",
                "files": 9,
                "records": 5000,
            }
        ],
        "files_checked": 9,
        "records": 5000,
        "faults": [],
        "ignored": [],
    }


# -- what can be wrong with a file -----------------------------------------------------------------


def flip(data):
    changed = bytearray(data)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    ("damage", "codes"),
    [
        (lambda data: data[:-1], ["ENCRYPTED_SIZE", "UNREADABLE"]),
        (lambda data: data[: len(data) // 2], ["ENCRYPTED_SIZE", "UNREADABLE"]),
        (lambda _: b"", ["ENCRYPTED_SIZE", "UNREADABLE"]),
        (lambda data: data + b"\n", ["ENCRYPTED_SIZE", "UNREADABLE"]),
        (flip, ["UNREADABLE"]),
        (lambda data: b"\0" * len(data), ["UNREADABLE"]),
        (lambda data: b"<html>".ljust(len(data)), ["UNREADABLE"]),
    ],
    ids=["last byte lost", "cut in half", "empty", "byte added", "bit flipped", "zeros", "a page"],
)
def test_a_damaged_file_is_told(day, tmp_path, faults, damage, codes):
    name = day.name("transactions", "created")
    day.files[name] = damage(day.files[name])
    assert faults(day.write(tmp_path / "inbox")) == [(name, code) for code in codes]


def test_a_file_for_another_key_is_unreadable(gpg, day, tmp_path, faults):
    name = day.name("users", "created")
    plain = avro(0)
    day.files[name] = gpg.encrypt(STRANGER, plain)
    day.row("users", "created")["EncryptedFileSize"] = len(day.files[name])
    assert faults(day.write(tmp_path / "inbox")) == [(name, "UNREADABLE")]


@pytest.mark.parametrize(
    ("column", "value", "code"),
    [
        ("FileSize", 1, "SIZE"),
        ("EncryptedFileSize", 0, "ENCRYPTED_SIZE"),
        ("RecordCount", 5001, "RECORD_COUNT"),
        ("Checksum", "0" * 64, "CHECKSUM"),
    ],
)
def test_each_number_of_a_row_is_compared(day, tmp_path, faults, column, value, code):
    day.row("transactions", "created")[column] = value
    assert faults(day.write(tmp_path / "inbox")) == [(day.name("transactions", "created"), code)]


def test_two_files_that_took_each_others_names_differ_in_everything(day, tmp_path, faults):
    one, other = day.name("users", "created"), day.name("transactions", "created")
    day.files[one], day.files[other] = day.files[other], day.files[one]
    codes = ["ENCRYPTED_SIZE", "SIZE", "CHECKSUM", "RECORD_COUNT"]
    assert faults(day.write(tmp_path / "inbox")) == [
        (name, code) for name in (one, other) for code in codes
    ]


@pytest.mark.parametrize(
    "plain",
    [b"", b"hello", b"Obj\x01", avro(5000)[:-1], avro(9000)[:-40], avro(10) + b"\0",
     avro(5000).replace(b"deflate", b"snapply"), avro(5000)[:3000] + b"x" * 3000 + avro(5000)[6000:]],
    ids=["empty", "text", "magic alone", "last byte lost", "cut in a block", "byte added",
         "unknown codec", "damaged block"],
)  # fmt: skip
def test_a_message_that_holds_no_whole_avro_file_is_told(gpg, day, tmp_path, faults, plain):
    name = day.name("users", "created")
    day.files[name] = gpg.encrypt(CLIENT, plain)
    day.row("users", "created").update(
        EncryptedFileSize=len(day.files[name]),
        FileSize=len(plain),
        Checksum=sha256(plain).hexdigest(),
    )
    assert faults(day.write(tmp_path / "inbox")) == [(name, "NOT_AVRO")]


def test_an_avro_file_that_was_not_encrypted_is_told_in_its_place_and_beside(day, tmp_path, faults):
    instead = day.name("users", "created")
    beside = day.name("transactions", "created").removesuffix(".pgp")
    day.files[instead] = avro(0)
    day.files[beside] = avro(5000)
    assert faults(day.write(tmp_path / "inbox")) == [
        (beside, "NOT_ENCRYPTED"),
        (instead, "NOT_ENCRYPTED"),
    ]


def test_a_missing_file_is_told_by_its_stem(day, tmp_path, faults):
    name = day.name("users", "updated")
    del day.files[name]
    assert faults(day.write(tmp_path / "inbox")) == [(name.removesuffix(".avro.pgp"), "MISSING")]


def test_a_file_that_the_manifest_does_not_list_is_told(day, tmp_path, faults):
    for event in ("created", "updated", "deleted"):
        day.rows.remove(day.row("users", event))
    assert faults(day.write(tmp_path / "inbox")) == [
        (day.name("users", event), "EXTRA") for event in ("created", "deleted", "updated")
    ]


def test_the_same_daily_file_under_two_suffixes_is_told(day, tmp_path, faults):
    name = day.name("users", "updated")
    other = name.removesuffix(".pgp") + ".gpg"
    day.files[other] = flip(day.files[name])
    assert faults(day.write(tmp_path / "inbox")) == [
        (name, "DUPLICATE_FILE"),
        (other, "UNREADABLE"),
    ]


def test_what_is_no_file_is_not_opened(day, tmp_path, faults):
    pipe, link = day.name("users", "created"), day.name("users", "updated")
    del day.files[pipe], day.files[link]
    folder = day.write(tmp_path / "inbox")
    os.mkfifo(folder / pipe)
    (folder / link).symlink_to("nowhere")
    assert faults(folder) == [(pipe, "UNREADABLE"), (link, "UNREADABLE")]


# -- what can be wrong with a manifest -------------------------------------------------------------


def test_a_day_without_its_manifest_is_one_fault(day, tmp_path, faults):
    folder = day.write(tmp_path / "inbox")
    (folder / day.manifest_name).unlink()
    assert faults(folder) == [(day.manifest_name, "MANIFEST_MISSING")]


def test_a_manifest_speaks_only_for_its_own_folder(day, tmp_path, faults):
    folder = day.write(tmp_path / "inbox")
    (folder / "other").mkdir()
    (folder / day.manifest_name).rename(folder / "other" / day.manifest_name)
    stems = [f"other/{row['FileName']}" for row in day.rows]
    assert faults(folder) == [
        (day.manifest_name, "MANIFEST_MISSING"),
        *((stem, "MISSING") for stem in stems),
    ]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "MANIFEST_INVALID"),
        (b"\xff\xfeR", "MANIFEST_INVALID"),
        (b"ResourceType,EventType\n", "MANIFEST_INVALID"),
        (b"x" * ((16 << 20) + 1), "MANIFEST_INVALID"),
    ],
    ids=["empty", "not text", "columns missing", "endless"],
)
def test_a_manifest_that_is_none_is_told(gpg, day, tmp_path, faults, content, code):
    folder = day.write(tmp_path / "inbox")
    (folder / day.manifest_name).write_bytes(gpg.encrypt(CLIENT, content))
    assert faults(folder) == [(day.manifest_name, code)]


def test_a_manifest_without_rows_leaves_every_file_extra(day, tmp_path, faults):
    day.rows.clear()
    assert faults(day.write(tmp_path / "inbox")) == [
        (day.manifest_name, "MANIFEST_INVALID"),
        *((name, "EXTRA") for name in sorted(day.files)),
    ]


@pytest.mark.parametrize("damage", [flip, lambda data: data[:-1]])
def test_a_damaged_manifest_is_unreadable(day, tmp_path, faults, damage):
    folder = day.write(tmp_path / "inbox")
    path = folder / day.manifest_name
    path.write_bytes(damage(path.read_bytes()))
    assert faults(folder) == [(day.manifest_name, "UNREADABLE")]


@pytest.mark.parametrize("keeps_suffix", [True, False])
def test_a_manifest_that_was_not_encrypted_is_told(day, tmp_path, faults, keeps_suffix):
    folder = day.write(tmp_path / "inbox")
    (folder / day.manifest_name).unlink()
    name = day.manifest_name if keeps_suffix else day.manifest_name.removesuffix(".pgp")
    (folder / name).write_bytes(day.manifest())
    assert faults(folder) == [(name, "NOT_ENCRYPTED")]


@pytest.mark.parametrize("change", [{"client_guid": OTHER_GUID}, {"date": "2026-01-02"}])
def test_a_row_of_another_client_or_day_is_told_and_its_file_is_extra(
    day, tmp_path, faults, change
):
    row = day.row("users", "created")
    other = Day(day.gpg, CLIENT, **change)
    row["FileName"] = other.name("users", "created").removesuffix(day.suffix)
    assert faults(day.write(tmp_path / "inbox")) == [
        (day.manifest_name, "FOREIGN_ROW"),
        (day.manifest_name, "INCOMPLETE_EVENTS"),
        (day.name("users", "created"), "EXTRA"),
    ]


def test_a_file_listed_twice_is_told_and_compared_with_the_first_row(day, tmp_path, faults):
    day.rows.append(day.row("users", "created") | {"RecordCount": 99})
    assert faults(day.write(tmp_path / "inbox")) == [(day.manifest_name, "DUPLICATE_ROW")]


@pytest.mark.parametrize("event", ["created", "updated", "deleted"])
def test_a_resource_without_one_of_the_three_events_is_told(day, tmp_path, faults, event):
    day.rows.remove(day.row("users", event))
    del day.files[day.name("users", event)]
    assert faults(day.write(tmp_path / "inbox")) == [(day.manifest_name, "INCOMPLETE_EVENTS")]


@pytest.mark.parametrize("value", ["2026-01-02", "2026-01-01T00:00:00", "01/01/2026", ""])
def test_an_effective_date_other_than_the_day_is_told(day, tmp_path, faults, value):
    day.row("users", "created")["EffectiveDate"] = value
    assert faults(day.write(tmp_path / "inbox")) == [(day.manifest_name, "EFFECTIVE_DATE")]


# -- the command -----------------------------------------------------------------------------------


def test_faults_are_one_line_each_and_end_in_status_1(day, tmp_path, key_file, run):
    del day.files[day.name("users", "created")]
    day.row("users", "updated")["RecordCount"] = 2
    folder = day.write(tmp_path / "inbox")
    stem = f"{day.client_guid}.2026-01-01.users"
    status, output, errors = run(folder, "--secret-key", key_file)
    assert output.splitlines() == [
        f"MISSING: {stem}.created: missing, the manifest lists it",
        f"RECORD_COUNT: {stem}.updated.avro.pgp: RecordCount is 1, the manifest says 2",
        "1 manifest, 5 daily files, 15006 records checked: 2 faults",
    ]
    assert (status, errors) == (1, "")
    status, output, _ = run(folder, "--secret-key", key_file, "--json")
    assert status == 1
    document = json.loads(output)
    assert document["files_checked"] == 5
    assert document["faults"][1] == {
        "file": f"{stem}.updated.avro.pgp",
        "client_guid": day.client_guid,
        "snapshot_date": "2026-01-01",
        "code": "RECORD_COUNT",
        "problem": "RecordCount is 1, the manifest says 2",
    }


def test_files_of_others_are_mentioned_and_no_fault(day, tmp_path, key_file, run):
    folder = day.write(tmp_path / "inbox")
    final = day.name("users", "created")
    names = [
        naming.temporary_name(final, token=7, nonce="0123abcd"),
        ".hidden.1-0123abcd.part",
        "README.txt",
        "with\x1b[31m colour",
        *(f"{number}.zip" for number in range(3)),
    ]
    for name in names:
        (folder / name).write_bytes(b"Obj\x01")
    (folder / "elsewhere").symlink_to(tmp_path)
    status, output, _ = run(folder, "--secret-key", key_file)
    assert status == 0
    ignored, summary = output.splitlines()
    assert ignored == (
        "ignored, not daily files: .CLT-0858efd1-2d2e-6a5d-f2b5-c7dad42ef184.2026-01-01.users."
        "created.avro.pgp.7-0123abcd.part, .hidden.1-0123abcd.part, 0.zip, 1.zip, 2.zip and 3 more"
        " (unfinished uploads among them: 1)"
    )
    assert summary.endswith("all as the manifests say")
    _, output, _ = run(folder, "--secret-key", key_file, "--json")
    assert json.loads(output)["ignored"] == sorted(
        [*names[:7], "elsewhere"], key=lambda name: (name == "elsewhere", name)
    )


def test_a_folder_without_anything_to_check_is_a_fault(tmp_path, key_file, run):
    folder = tmp_path / "inbox"
    (folder / "below").mkdir(parents=True)
    (folder / "notes.txt").write_bytes(b"hello")
    status, output, _ = run(folder, "--secret-key", key_file, "--json")
    assert status == 1
    assert json.loads(output)["faults"] == [
        {
            "file": ".",
            "client_guid": None,
            "snapshot_date": None,
            "code": "NOTHING_FOUND",
            "problem": "holds no daily file and no manifest",
        }
    ]


def test_a_folder_that_cannot_be_read_is_a_fault(tmp_path, keyring):
    verdict = verify(tmp_path / "gone", keyring)
    assert [fault.code for fault in verdict.faults] == [
        FaultCode.UNREADABLE,
        FaultCode.NOTHING_FOUND,
    ]
    assert str(verdict.faults[0]) == "UNREADABLE: .: cannot be read: No such file or directory"


@pytest.mark.parametrize("armor", [True, False])
def test_a_guarded_key_is_opened_by_a_passphrase_file(gpg, tmp_path, run, armor):
    inbox = guarded_day(gpg, tmp_path)
    key = secret_key_file(gpg, tmp_path, GUARDED, armor=armor, passphrase=PASSPHRASE)
    passphrase = tmp_path / "passphrase"
    passphrase.write_text(f"{PASSPHRASE}\n", encoding="utf-8")
    status, output, errors = run(inbox, "--secret-key", key, "--passphrase-file", passphrase)
    assert (status, errors) == (0, "")
    assert output.startswith("1 manifest, 3 daily files, 30 records")


def guarded_day(gpg, tmp_path):
    day = Day(gpg, GUARDED)
    for event in ("created", "updated", "deleted"):
        day.add("users", event, avro(10), 10)
    return day.write(tmp_path / "inbox")


def test_a_wrong_passphrase_is_wrong_usage_and_is_not_shown(gpg, tmp_path, run):
    inbox = guarded_day(gpg, tmp_path)
    key = secret_key_file(gpg, tmp_path, GUARDED, passphrase=PASSPHRASE)
    passphrase = tmp_path / "passphrase"
    passphrase.write_bytes(b"not this one")
    status, output, errors = run(inbox, "--secret-key", key, "--passphrase-file", passphrase)
    assert (status, output) == (2, "")
    assert "passphrase" in errors
    assert "not this one" not in errors


def test_a_guarded_key_without_passphrase_and_terminal_is_wrong_usage(
    gpg, tmp_path, run, monkeypatch
):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    inbox = guarded_day(gpg, tmp_path)
    key = secret_key_file(gpg, tmp_path, GUARDED, passphrase=PASSPHRASE)
    status, output, errors = run(inbox, "--secret-key", key)
    assert (status, output) == (2, "")
    assert "--passphrase-file" in errors


@pytest.mark.parametrize("answers", [[PASSPHRASE], ["wrong", PASSPHRASE]])
def test_on_a_terminal_the_passphrase_is_asked_for_and_not_echoed(gpg, tmp_path, answers):
    inbox = guarded_day(gpg, tmp_path)
    key = secret_key_file(gpg, tmp_path, GUARDED, passphrase=PASSPHRASE)
    status, shown = on_a_terminal(["verify", str(inbox), "--secret-key", str(key)], answers)
    assert shown.count("Passphrase of the secret key: ") == len(answers)
    assert PASSPHRASE not in shown
    assert "all as the manifests say" in shown
    assert status == 0


def test_after_three_wrong_answers_it_is_wrong_usage(gpg, tmp_path):
    inbox = guarded_day(gpg, tmp_path)
    key = secret_key_file(gpg, tmp_path, GUARDED, passphrase=PASSPHRASE)
    answers = ["not this one"] * 3
    status, shown = on_a_terminal(["verify", str(inbox), "--secret-key", str(key)], answers)
    assert status == 2
    assert shown.count("Passphrase of the secret key: ") == 3
    assert "not this one" not in shown


def on_a_terminal(arguments, answers):
    """Run the program on a terminal of its own, answer its questions, give status and output."""
    ours, theirs = os.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", "--wait", sys.executable, "-m", "mxdeliver", *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs,
    ) as program:  # fmt: skip
        os.close(theirs)
        shown = b""
        left = list(answers)
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # Linux says EIO when the last user of a terminal is gone
                break
            if left and shown.count(b"secret key: ") > len(answers) - len(left):
                os.write(ours, f"{left.pop(0)}\n".encode())
    os.close(ours)
    return program.returncode, shown.decode()


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nxxxx\n-----END"]
)
def test_a_file_that_is_no_secret_key_is_wrong_usage(made, tmp_path, run, content):
    key = tmp_path / "key"
    key.write_bytes(content)
    status, output, errors = run(made.write(tmp_path / "inbox"), "--secret-key", key)
    assert (status, output) == (2, "")
    assert "--secret-key" in errors


def test_a_secret_key_file_that_cannot_be_read_is_wrong_usage(tmp_path, run):
    status, output, errors = run(tmp_path, "--secret-key", "/proc/self/mem")
    assert (status, output) == (2, "")
    assert "/proc/self/mem cannot be read: Input/output error" in errors


def test_a_public_key_is_no_secret_key(gpg, made, tmp_path, run):
    key = tmp_path / "key"
    key.write_bytes(gpg.run("--armor", "--export", CLIENT))
    status, output, errors = run(made.write(tmp_path / "inbox"), "--secret-key", key)
    assert (status, output) == (2, "")
    assert "--secret-key" in errors


def test_missing_arguments_are_wrong_usage(tmp_path, key_file, run):
    assert run()[0] == 2
    assert run(tmp_path)[0] == 2
    assert run(tmp_path / "gone", "--secret-key", key_file)[0] == 2
    assert run(key_file, "--secret-key", key_file)[0] == 2
    assert run(tmp_path, "--secret-key", tmp_path / "gone")[0] == 2


def test_300_mb_of_avro_are_checked_in_less_than_250_mb_of_memory(gpg, tmp_path, key_file):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    day = Day(gpg, CLIENT)
    for event in ("updated", "deleted"):
        day.add("users", event, avro(0), 0)
    certificate = vet(gpg.run("--export", CLIENT), at=datetime.now(UTC))
    name = day.name("users", "created")
    with (inbox / name).open("wb") as file:
        outer = Tally(file.write)
        message = MessageWriter(certificate.encryption_keys, outer.write)
        inner = Tally(message.write)
        for piece in large_avro(blocks=72):
            inner.write(piece)
        message.finish()
    assert inner.size > 300_000_000
    day.rows.append(
        day.rows[0]
        | {
            "EventType": "CREATED",
            "RecordCount": 72 * 1000,
            "FileSize": inner.size,
            "EncryptedFileSize": outer.size,
            "Checksum": inner.checksum,
            "FileName": name.removesuffix(day.suffix),
        }
    )
    day.write(inbox)
    program = subprocess.Popen(
        [sys.executable, "-m", "mxdeliver", "verify", inbox, "--secret-key", key_file],
        stdout=subprocess.PIPE,
    )
    with program:
        peak = peak_until_end(program)
        output = program.stdout.read()
    assert program.returncode == 0
    assert output.decode().endswith("72000 records checked: all as the manifests say\n")
    assert 0 < peak < 250_000_000


def large_avro(blocks):
    """Give an Avro file in pieces: its header, then one block of 4 MiB again and again."""
    file = io.BytesIO()
    rows = [{"guid": "x" * 4200, "balance": None}] * 1000
    fastavro.writer(file, SCHEMA, [], codec="null", sync_marker=b"s" * 16)
    header = file.getvalue()
    fastavro.writer(file, SCHEMA, rows, codec="null", sync_marker=b"s" * 16, sync_interval=1 << 30)
    yield header
    block = file.getvalue()[len(header) :]
    for _ in range(blocks):
        yield block


# -- the guide -------------------------------------------------------------------------------------

INBOX = "inbox=/srv/sftp/incoming"
DECRYPTED = "decrypted=/srv/loading/$day"
GUIDE = (Path(__file__).parents[1] / "docs" / "receiving.md").read_text(encoding="utf-8")


def follow_the_guide(gpg, folder, change=lambda script: script):
    """Run the guide's shell script, for the folder and with what is decrypted beside it."""
    script = GUIDE.split("```sh\n")[1].split("```")[0]
    for place in (INBOX, DECRYPTED):
        assert script.count(place) == 1
    script = script.replace(INBOX, f"inbox={folder}")
    script = script.replace(DECRYPTED, f"decrypted={folder.parent / 'decrypted'}")
    environment = {"PATH": os.environ["PATH"], "GNUPGHOME": str(gpg.home)}
    return subprocess.run(
        ["sh", "-c", change(script)],
        cwd=folder.parent,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


def test_the_guides_script_decrypts_and_checks_a_day(gpg, day, tmp_path, key_file, run):
    folder = day.write(tmp_path / "inbox")
    done = follow_the_guide(gpg, folder)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    found = {path.name for path in (tmp_path / "decrypted").iterdir()}
    assert run(folder, "--secret-key", key_file)[0] == 0, "nothing was put beside the files"
    assert found == {
        day.manifest_name.removesuffix(".pgp"),
        *(f"{row['FileName']}.avro" for row in day.rows),
    }
    with (tmp_path / "decrypted" / f"{day.rows[3]['FileName']}.avro").open("rb") as file:
        assert sum(1 for _ in fastavro.reader(file)) == 5000


@pytest.mark.parametrize("wrong", ["damaged", "another file", "no manifest"])
def test_the_guides_script_stops_at_what_is_wrong(gpg, day, tmp_path, wrong):
    name = day.name("users", "created")
    if wrong == "damaged":
        day.files[name] = day.files[name][:-1]
    elif wrong == "another file":
        day.files[name] = gpg.encrypt(CLIENT, avro(1))
    folder = day.write(tmp_path / "inbox")
    if wrong == "no manifest":
        (folder / day.manifest_name).unlink()
    assert follow_the_guide(gpg, folder).returncode != 0
    assert not (tmp_path / "decrypted" / name.removesuffix(".pgp")).exists()


def test_the_guides_script_takes_a_passphrase_without_a_terminal(gpg, tmp_path):
    folder = guarded_day(gpg, tmp_path)
    gpg.forget_passphrases()
    (tmp_path / "passphrase").write_text(PASSPHRASE, encoding="utf-8")

    def guarded(script):
        options = re.findall(r"`(--pinentry-mode loopback --passphrase-file) FILE`", GUIDE)
        return script.replace("gpg --batch", f"gpg --batch {options[0]} {tmp_path / 'passphrase'}")

    assert follow_the_guide(gpg, folder).returncode != 0
    gpg.forget_passphrases()
    done = follow_the_guide(gpg, folder, guarded)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "decrypted").glob("*.avro"))) == 3


def test_the_guide_lists_every_fault():
    assert {code.value for code in FaultCode} <= set(re.findall(r"`([A-Z_]+)`", GUIDE))
