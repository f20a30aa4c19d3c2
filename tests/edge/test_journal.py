"""The delivery log: its lines, its schema, and what happens where it cannot be written."""

import io
import json
import os
import re
import subprocess
import sys
import threading
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import jsonschema
import pytest

from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.model import EventType
from mxdeliver.edge import journal as journal_module
from mxdeliver.edge.journal import Journal

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "schemas" / "delivery-log.schema.json").read_text()
)
NOW = datetime(2026, 3, 10, 12, 0, 0, 123_456, tzinfo=UTC)
DELIVERY = {
    "client_guid": "CLT-00000000-0000-0000-0000-000000000001",
    "snapshot_date": SnapshotDate(2026, 3, 9),
    "revision": 1,
}
FILE = {**DELIVERY, "file_name": "CLT.avro.pgp", "encrypted_file_size": 456}
ERROR = {**DELIVERY, "attempt": 2, "error_code": "STALLED", "retryable": True}
BUILT = {**FILE, "record_count": 3, "file_size": 123, "checksum": "0" * 64}
EXAMPLES = {
    "run.started": {},
    "delivery.started": {**DELIVERY, "attempt": 1},
    "file.built": {**BUILT, "resource_type": "USERS", "event_type": EventType.CREATED},
    "bundle.sealed": {**DELIVERY, "record_count": 3, "encrypted_file_size": 456, "seconds": 1.5},
    "connection.opened": {**DELIVERY, "host": "sftp.example", "port": 8022},
    "file.delivered": FILE,
    "manifest.delivered": FILE,
    "delivery.delivered": {
        **DELIVERY,
        "attempt": 1,
        "record_count": 3,
        "encrypted_file_size": 456,
        "seconds": 0.12345,
    },
    "delivery.retrying": {**ERROR, "retry_at": NOW + timedelta(minutes=1)},
    "delivery.failed": {**ERROR, "error_code": "DEADLINE", "retryable": False},
    "delivery.parked": {**ERROR, "error_code": "AUTH_FAILED", "retryable": False},
    "run.finished": {"seconds": 12},
    "key.expiring": {"client_guid": DELIVERY["client_guid"]},
    "name.unknown": {
        **DELIVERY,
        "attempt": 3,
        "error_code": "DNS_FAILED",
        "host": "sftp.example",
        "port": 8022,
    },
    "connection.not_strict": {**DELIVERY, "host": "sftp.example", "port": 8022},
}
WITHOUT_ATTEMPT = {
    (event, "attempt") for event in ("delivery.retrying", "delivery.failed", "delivery.parked")
}
WARNINGS = {
    "delivery.retrying",
    "delivery.failed",
    "delivery.parked",
    "key.expiring",
    "connection.not_strict",
    "name.unknown",
}


def open_journal(path, **options):
    return Journal.open(path, run_id="run-1", clock=lambda: NOW, **options)


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def validate(line):
    jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker()).validate(
        line
    )


def test_the_schema_is_a_schema_and_knows_exactly_the_fields_of_the_log():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert list(SCHEMA["properties"]) == [*SCHEMA["required"], *journal_module.FIELDS]
    assert set(SCHEMA["properties"]["level"]["enum"]) == journal_module.LEVELS


@pytest.mark.parametrize("event", EXAMPLES)
def test_each_event_is_written_as_the_schema_has_it(tmp_path, event):
    level = "warning" if event in WARNINGS else "info"
    with open_journal(tmp_path / "log.jsonl") as journal:
        journal.write(event, "It happened.", level=level, **EXAMPLES[event])
    [line] = lines(tmp_path / "log.jsonl")
    validate(line)
    assert line["event"] == event
    assert line.keys() == {*SCHEMA["required"], *EXAMPLES[event]}


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (event, field)
        for event, fields in EXAMPLES.items()
        for field in fields
        if field not in {"seconds", "resource_type", "event_type"} | DELIVERY.keys()
        and (event, field) not in WITHOUT_ATTEMPT
    ],
)
def test_an_event_without_a_field_that_it_always_has_is_invalid(tmp_path, event, field):
    level = "warning" if event in WARNINGS else "info"
    with open_journal(tmp_path / "log.jsonl") as journal:
        journal.write(event, "It happened.", level=level, **{**EXAMPLES[event], field: None})
    with pytest.raises(jsonschema.ValidationError, match=f"'{field}' is a required property"):
        validate(lines(tmp_path / "log.jsonl")[0])


def test_a_log_that_is_a_device_is_written_without_complaint():
    complaints = io.StringIO()
    with open_journal(Path("/dev/null"), complaints=complaints) as journal:
        journal.write("delivery.delivered", "It happened.", **EXAMPLES["delivery.delivered"])
    assert complaints.getvalue() == ""


def test_values_are_written_in_their_plain_forms(tmp_path):
    with open_journal(tmp_path / "log.jsonl") as journal:
        journal.write(
            "file.built",
            "Größe",
            snapshot_date=SnapshotDate(2026, 3, 9),
            event_type=EventType.DELETED,
            seconds=0.123456,
            retryable=False,
            retry_at=NOW.astimezone(timezone(timedelta(hours=5))),
            port=8022,
            host=None,
        )
    [line] = lines(tmp_path / "log.jsonl")
    assert line == {
        "ts": "2026-03-10T12:00:00.123Z",
        "level": "info",
        "event": "file.built",
        "run_id": "run-1",
        "message": "Größe",
        "snapshot_date": "2026-03-09",
        "event_type": "DELETED",
        "seconds": 0.123,
        "retryable": False,
        "retry_at": "2026-03-10T12:00:00.123Z",
        "port": 8022,
    }


@pytest.mark.parametrize(
    ("level", "fields", "problem"),
    [
        ("info", {"password": "hunter2"}, "no field password"),
        ("debug", {}, "not a level"),
        ("info", {"host": b"bytes"}, "does not write a bytes"),
        ("info", {"retry_at": datetime(2026, 1, 1)}, "points in time"),  # noqa: DTZ001 - the point
    ],
)
def test_what_the_log_does_not_know_is_a_bug_in_the_caller(tmp_path, level, fields, problem):
    with (
        open_journal(tmp_path / "log.jsonl") as journal,
        pytest.raises(TypeError, match=problem) as caught,
    ):
        journal.write("run.started", "x", level=level, **fields)
    assert "hunter2" not in str(caught.value)
    assert (tmp_path / "log.jsonl").read_bytes() == b""


def test_what_others_say_cannot_break_or_forge_a_line(tmp_path):
    evil = 'a\nb\r\x1b[2J\u2028\u202e\ud800"}' + "x" * 5000
    with open_journal(tmp_path / "log.jsonl") as journal:
        journal.write("run.started", evil, host=evil)
    data = (tmp_path / "log.jsonl").read_bytes()
    assert data.count(b"\n") == 1
    assert b"\x1b" not in data
    line = json.loads(data)
    assert line["message"].startswith('a\\nb\\r\\x1b[2J\\u2028\\u202e\\ud800"}')
    assert len(line["message"]) == 1000


def test_the_log_and_its_new_folder_have_their_modes_whatever_the_umask(tmp_path):
    path = tmp_path / "logs" / "deliveries.jsonl"
    before = os.umask(0o077)
    try:
        open_journal(path).close()
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.parent.stat().st_mode & 0o777 == 0o750


WRITE = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from mxdeliver.edge.journal import Journal
with Journal.open(Path(sys.argv[1]), run_id="1", clock=lambda: datetime.now(UTC)) as journal:
    journal.write("delivery.delivered", "x")
"""


def synced(path, record):
    """Write to the log in a process under strace; give what was synced, in turn."""
    # Not through the virtual environment's link: strace starts the binary itself.
    python = Path(sys.executable).resolve()
    subprocess.run(
        ["strace", "-y", "-o", record, "-e", "trace=fsync,fdatasync", python, "-c", WRITE, path],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])},  # noqa: PTH109
        check=True,
    )
    return re.findall(r"sync\(\d+<(.*)>\) += 0", record.read_text())


def test_the_name_of_a_new_log_is_made_durable_as_well(tmp_path):
    path = tmp_path / "var/logs/deliveries.jsonl"
    folders = [path.parent, path.parent.parent, tmp_path]
    assert synced(path, tmp_path / "record") == [str(one) for one in (*folders, path)]
    assert synced(path, tmp_path / "record") == [str(path)]


def test_a_log_that_is_there_is_appended_to_and_keeps_its_mode(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"old": 1}\n')
    path.chmod(0o600)
    with open_journal(path) as journal:
        journal.write("run.started", "x")
    assert lines(path)[0] == {"old": 1}
    assert len(lines(path)) == 2
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_rotated_log_is_opened_anew(tmp_path):
    path = tmp_path / "log.jsonl"
    with open_journal(path) as journal:
        journal.write("run.started", "one")
        path.rename(tmp_path / "log.jsonl.1")
        journal.write("run.started", "two")
        path.rename(tmp_path / "log.jsonl.2")
        path.touch()
        journal.write("run.started", "three")
    assert [lines(tmp_path / name)[0]["message"] for name in ("log.jsonl.1", "log.jsonl.2")] == [
        "one",
        "two",
    ]
    assert lines(path)[0]["message"] == "three"


def test_lines_of_several_writers_stay_whole(tmp_path):
    path = tmp_path / "log.jsonl"

    def write_many(name):
        with open_journal(path) as journal:
            for number in range(100):
                journal.write("run.started", name * 200, attempt=number)

    threads = [threading.Thread(target=write_many, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(line["message"][0] for line in lines(path)) == sorted("abcd" * 100)


def test_a_full_disk_stops_nothing_and_is_said_once(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", disk], check=True)
    complaints = io.StringIO()
    try:
        with open_journal(disk / "log.jsonl", complaints=complaints) as journal:
            for _ in range(50):
                journal.write("run.started", "x" * 900)
            (disk / "log.jsonl").write_bytes(b"")
            journal.write("run.finished", "after somebody made room", seconds=1)
            text = (disk / "log.jsonl").read_text()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
    assert complaints.getvalue().count("\n") == 1
    assert complaints.getvalue() == (
        f"mxdeliver: the delivery log {disk / 'log.jsonl'} cannot be written: "
        "No space left on device; deliveries go on without it\n"
    )
    assert json.loads(text.splitlines()[-1])["event"] == "run.finished"


def test_a_line_cut_short_by_a_full_disk_does_not_spoil_the_next(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", disk], check=True)
    try:
        (disk / "ballast").write_bytes(bytes(4096))
        with open_journal(disk / "log.jsonl", complaints=io.StringIO()) as journal:
            for _ in range(5):
                journal.write("run.started", "x" * 900)
            (disk / "ballast").unlink()
            journal.write("run.finished", "room again", seconds=1)
        *whole, torn, last = (disk / "log.jsonl").read_text().splitlines()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
    assert [json.loads(line)["event"] for line in [*whole, last]] == [
        *["run.started"] * len(whole),
        "run.finished",
    ]
    with pytest.raises(json.JSONDecodeError):
        json.loads(torn)


def test_a_log_that_cannot_be_opened_stops_nothing(tmp_path):
    (tmp_path / "file").touch()
    complaints = io.StringIO()
    with open_journal(tmp_path / "file" / "log.jsonl", complaints=complaints) as journal:
        journal.write("run.started", "x")
    assert complaints.getvalue().count("deliveries go on") == 1


def test_a_closed_pipe_stops_nothing_and_leaves_the_exit_status_alone(tmp_path):
    code = (
        "import sys; from datetime import UTC, datetime; from mxdeliver.edge.journal import Journal\n"
        "journal = Journal.open(None, run_id='r', clock=lambda: datetime.now(UTC))\n"
        "sys.stdin.readline()\n"
        "for _ in range(3): journal.write('run.started', 'x')\n"
        "print('done', file=sys.stderr)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        child.stdout.close()
        child.stdout = None
        _, said = child.communicate("\n")
    assert child.returncode == 0
    assert said.splitlines()[0].startswith("mxdeliver: the delivery log standard output")
    assert said.splitlines()[1:] == ["done"]
    assert list(tmp_path.iterdir()) == []


def test_without_a_path_events_go_to_the_stream_or_standard_output(capfd):
    stream = io.StringIO()
    open_journal(None, stream=stream).write("run.started", "to the stream")
    assert json.loads(stream.getvalue())["message"] == "to the stream"
    print("before", flush=False)  # noqa: T201 - the order of the two is the point
    open_journal(None).write("run.started", "to standard output")
    first, second = capfd.readouterr().out.splitlines()
    assert (first, json.loads(second)["message"]) == ("before", "to standard output")


def test_a_closed_stream_and_closed_complaints_stop_nothing():
    stream, complaints = io.StringIO(), io.StringIO()
    stream.close()
    complaints.close()
    journal = open_journal(None, stream=stream, complaints=complaints)
    journal.write("run.started", "x")
    journal.close()


def test_a_date_is_written_as_a_day_never_as_a_time(tmp_path):
    with open_journal(tmp_path / "log.jsonl") as journal:
        journal.write("run.started", "x", snapshot_date=date(2026, 1, 2))
    assert lines(tmp_path / "log.jsonl")[0]["snapshot_date"] == "2026-01-02"
