"""The spool: whole bundles or none, private, checked, and nothing left behind."""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Semaphore

import pytest

from mxdeliver.core.errors import Internal, SpoolCorrupt, SpoolFull, SpoolIO, SpoolMode
from mxdeliver.edge.spool import Spool, bundle_file, folders
from mxdeliver.edge.spool import staging as staging_module
from mxdeliver.edge.spool.staging import KEPT_FREE
from tests.support.ledgers import TODAY, bundle, contents, key, line_from, process

FOLDER = "CLT-00000000-0000-0000-0000-000000000001.2026-03-09.r1"
# Seals (or, told to, only stages) the usual bundle in the state directory named.
SEAL = """
import sys
from pathlib import Path
from mxdeliver.edge.spool import Spool
from tests.support.ledgers import bundle, contents, key
spool = Spool(Path(sys.argv[1]))
with spool.stage(key()) as staging:
    for name, data in contents(key()).items():
        with staging.create(name) as file:
            file.write(data)
    if sys.argv[2] == "hold":
        sys.stdout.write("staged\\n"); sys.stdout.flush()
        sys.stdin.readline()
    staging.seal(bundle(key()))
"""


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "state")
    assert spool.check() is True
    return spool


@pytest.fixture
def path(spool, tmp_path):
    del spool
    return tmp_path / "state" / "spool"


def write(staging, files):
    for name, data in files.items():
        with staging.create(name) as file:
            file.write(data)


def seal(spool, delivery=None):
    delivery = delivery or key()
    with spool.stage(delivery) as staging:
        write(staging, contents(delivery))
        staging.seal(bundle(delivery))


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_a_sealed_bundle_is_read_back_as_it_was_written(spool, path):
    seal(spool)
    assert names(path) == [FOLDER]
    assert names(path / FOLDER) == sorted([*contents(key()), "bundle.json"])
    assert spool.bundle(key()) == bundle(key())
    assert list(spool.bundles()) == [bundle(key())]
    assert spool.has_bundles()
    for artifact in bundle(key()).files:
        spool.verify(key(), artifact)
        with spool.read(key(), artifact) as file:
            assert file.read() == contents(key())[artifact.name]


def test_everything_is_for_this_user_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        spool = Spool(tmp_path / "state")
        spool.check()
        seal(spool)
    finally:
        os.umask(before)
    modes = {entry.stat().st_mode & 0o777 for entry in (tmp_path / "state").rglob("*")}
    assert modes == {0o700, 0o600}
    assert {e.stat().st_mode & 0o777 for e in (tmp_path / "state").rglob("*") if e.is_file()} == {
        0o600
    }


def test_large_and_small_writes_of_any_buffer_come_together(spool):
    artifact = bundle(key()).files[0]
    with spool.stage(key()) as staging, staging.create(artifact.name) as file:
        for piece in (b"", b"abc", bytearray(b"def"), memoryview(b"g" * 3_000_000)):
            file.write(piece)
        assert file.size == 3_000_006


@pytest.mark.parametrize("error", [None, KeyError])
def test_nothing_is_written_to_a_file_that_was_let_go(spool, path, error):
    # its descriptor's number may be another client's by now
    other = path / "other"
    with suppress(KeyError), spool.stage(key()) as staging:
        with staging.create(bundle(key()).files[0].name) as file:
            file.write(b"ours")
            if error is not None:
                raise error
        raise KeyError
    with other.open("wb"), pytest.raises(SpoolIO):
        file.write(b"late")
    assert other.read_bytes() == b""


def test_an_unsealed_bundle_leaves_nothing(spool, path):
    with spool.stage(key()) as staging:
        write(staging, contents(key()))
    assert names(path) == []
    with (
        pytest.raises(ZeroDivisionError),
        spool.stage(key()) as staging,
        staging.create(bundle(key()).files[0].name) as file,
    ):
        file.write(b"x" * (1 // 0))
    assert names(path) == []
    assert spool.bundle(key()) is None
    assert not spool.has_bundles()


def test_the_callers_own_errors_pass_through_unchanged(spool):
    with pytest.raises(ConnectionResetError), spool.stage(key()):
        raise ConnectionResetError(errno.ECONNRESET, "the source went away")


def test_a_revision_is_sealed_once(spool):
    seal(spool)
    with pytest.raises(SpoolCorrupt, match="sealed already"):
        seal(spool)
    seal(spool, key(revision=2))
    assert [sealed.key.revision for sealed in spool.bundles()] == [1, 2]


def test_a_bundle_that_does_not_list_what_was_written_is_not_sealed(spool, path):
    files = contents(key())
    for wrong in (dict(list(files.items())[1:]), dict.fromkeys(files, b"short")):
        with spool.stage(key()) as staging:
            write(staging, wrong)
            with pytest.raises(Internal):
                staging.seal(bundle(key()))
    with spool.stage(key(TODAY)) as staging:
        write(staging, files)
        with pytest.raises(Internal):
            staging.seal(bundle(key()))
    assert names(path) == []


@pytest.mark.parametrize("name", ["../escape", "bundle.json", "a/b", ".hidden", ""])
def test_only_names_of_deliveries_are_created(spool, name):
    with spool.stage(key()) as staging, pytest.raises(ValueError, match="neither"):
        staging.create(name).__enter__()


def test_a_file_is_created_once_and_never_through_a_link(spool, path, tmp_path):
    name = bundle(key()).files[0].name
    with spool.stage(key()) as staging:
        [folder] = path.iterdir()
        (folder / name).symlink_to(tmp_path / "target")
        with pytest.raises(SpoolIO), staging.create(name):
            pass
    assert not (tmp_path / "target").exists()


# -- state directory -------------------------------------------------------------------------------


def test_a_missing_or_empty_state_directory_is_made_and_said_so_once(tmp_path):
    assert Spool(tmp_path / "a" / "state").check() is True
    assert Spool(tmp_path / "a" / "state").check() is False
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o755)
    assert Spool(empty).check() is True
    assert empty.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("which", [".", "spool"])
def test_a_directory_that_is_open_to_others_is_refused(spool, tmp_path, which):
    (tmp_path / "state" / which).chmod(0o750)
    with pytest.raises(SpoolMode, match="open to others"):
        spool.check()


@pytest.mark.parametrize("which", [".", "spool"])
def test_a_directory_of_another_user_is_refused(spool, tmp_path, which):
    os.chown(tmp_path / "state" / which, 12_345, -1)
    with pytest.raises(SpoolMode, match="belongs to user 12345"):
        spool.check()


@pytest.mark.parametrize("which", ["state", "state/spool"])
def test_a_directory_that_is_a_link_or_a_file_is_refused(spool, tmp_path, which):
    (tmp_path / which).rename(tmp_path / "elsewhere")
    (tmp_path / which).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SpoolMode, match="not a directory"):
        spool.check()
    if which == "state/spool":
        with pytest.raises(SpoolMode):
            spool.bundle(key())
    (tmp_path / which).unlink()
    (tmp_path / which).touch()
    with pytest.raises(SpoolMode, match="not a directory"):
        spool.check()


def test_a_spool_opened_to_others_meanwhile_is_refused(spool, path):
    path.chmod(0o755)
    with pytest.raises(SpoolMode), spool.stage(key()):
        pass
    with pytest.raises(SpoolMode):
        spool.bundle(key())


def test_a_spool_that_is_gone_is_an_error_of_the_disk_but_holds_no_bundles(spool, path):
    path.rmdir()
    assert list(spool.bundles()) == []
    assert not spool.has_bundles()
    with pytest.raises(SpoolIO):
        spool.bundle(key())


# -- damage ----------------------------------------------------------------------------------------


def test_a_sealed_file_that_was_flipped_cut_or_removed_is_corrupt(spool, path):
    seal(spool)
    flipped, cut, gone, _ = bundle(key()).files
    data = bytearray(contents(key())[flipped.name])
    data[3] ^= 1
    (path / FOLDER / flipped.name).write_bytes(data)
    os.truncate(path / FOLDER / cut.name, 5)
    (path / FOLDER / gone.name).unlink()
    with pytest.raises(SpoolCorrupt, match="was changed"):
        spool.verify(key(), flipped)
    with pytest.raises(SpoolCorrupt, match="5 bytes instead of"):
        spool.read(key(), cut)
    with pytest.raises(SpoolCorrupt, match="is missing"):
        spool.read(key(), gone)
    with pytest.raises(SpoolCorrupt, match="is missing"):
        spool.read(key(TODAY), gone)


def test_a_sealed_file_that_is_a_link_or_a_folder_is_refused(spool, path):
    seal(spool)
    link, folder, *_ = bundle(key()).files
    (path / FOLDER / link.name).rename(path / FOLDER / "moved")
    (path / FOLDER / link.name).symlink_to("moved")
    (path / FOLDER / folder.name).unlink()
    (path / FOLDER / folder.name).mkdir()
    with pytest.raises(SpoolMode):
        spool.read(key(), link)
    with pytest.raises(SpoolCorrupt):
        spool.read(key(), folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda document: document | {"format": 2},
        lambda document: document | {"revision": 2},
        lambda document: document | {"revision": True},
        lambda document: document | {"files": []},
        lambda document: document | {"files": [1]},
        lambda document: document | {"client_guid": 5},
        lambda document: {name: document[name] for name in document if name != "files"},
        lambda document: [document],
    ],
)
def test_a_damaged_bundle_file_is_corrupt(spool, path, damage):
    seal(spool)
    file = path / FOLDER / "bundle.json"
    file.write_text(json.dumps(damage(json.loads(file.read_text()))))
    with pytest.raises(SpoolCorrupt, match=re.escape(f"{FOLDER}/bundle.json")):
        spool.bundle(key())
    assert spool.has_bundles()


def test_a_bundle_file_that_is_missing_or_no_json_is_corrupt(spool, path):
    seal(spool)
    for content in (b"\xff{", b"[" * 100_000, b'{"format": ' + b"9" * 5_000 + b"}"):
        (path / FOLDER / "bundle.json").write_bytes(content)
        with pytest.raises(SpoolCorrupt):
            spool.bundle(key())
    (path / FOLDER / "bundle.json").unlink()
    with pytest.raises(SpoolCorrupt, match="is missing"):
        list(spool.bundles())


def test_a_bundle_sealed_by_the_first_version_is_still_read():
    old = {
        "format": 1,
        "client_guid": key().client_guid,
        "snapshot_date": "2026-03-09",
        "revision": 1,
        "key_fingerprints": ["AB" * 20],
        "files": [
            {
                "name": artifact.name,
                "record_count": 5,
                "file_size": 100,
                "checksum": "0" * 64,
                "encrypted_file_size": artifact.encrypted_file_size,
                "encrypted_checksum": artifact.encrypted_checksum,
            }
            for artifact in bundle(key()).files
        ],
    }
    assert bundle_file.from_json(json.dumps(old).encode()) == bundle(key())


def test_a_disk_that_fails_while_a_file_is_read_is_an_error_of_the_disk(spool, path):
    seal(spool)
    artifact = bundle(key()).files[0]
    folder = os.open(path, os.O_RDONLY)
    for read in (lambda file: file.read(), lambda file: file.read(5)):
        with spool.read(key(), artifact) as file:
            os.dup2(folder, file.fileno())  # reading a folder fails
            with pytest.raises(SpoolIO, match=artifact.name):
                read(file)
    os.close(folder)
    assert isinstance(folders.from_os_error(OSError(errno.EDQUOT, "quota"), "x"), SpoolFull)
    assert isinstance(folders.from_os_error(OSError(errno.EROFS, "read-only"), "x"), SpoolIO)
    assert str(folders.from_os_error(OSError("odd"), "x")).endswith("odd")


# -- removing and sweeping -------------------------------------------------------------------------


def test_a_removed_bundle_is_gone_and_may_be_removed_again(spool, path):
    seal(spool)
    seal(spool, key(TODAY))
    spool.remove(key())
    spool.remove(key())
    assert spool.bundle(key()) is None
    assert [sealed.key for sealed in spool.bundles()] == [key(TODAY)]
    assert len(names(path)) == 1


def test_leftovers_of_a_killed_process_are_swept_and_those_of_a_live_one_stay(spool, path):
    state = path.parent
    with process(SEAL, state, "hold") as child:
        assert line_from(child) == "staged"
        assert len(names(path)) == 1
        spool.sweep()
        [staging] = path.iterdir()
        assert len(names(staging)) == 4
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert spool.bundle(key()) is None
    seal(spool)
    spool.sweep()
    assert names(path) == [FOLDER]


def test_a_removal_that_was_cut_short_is_swept(spool, path):
    seal(spool)
    (path / FOLDER).rename(path / f".{FOLDER}.1-0123abcd.tmp")
    (path / "not ours").mkdir()
    (path / ".other.tmp").mkdir()
    assert not spool.has_bundles()
    spool.sweep()
    assert names(path) == [".other.tmp", "not ours"]


def test_sweeping_beside_staging_removes_nothing_that_is_alive(spool, path):
    stop, problems = threading.Event(), []

    def sweep():
        while not stop.is_set():
            spool.sweep()

    def stage(number):
        try:
            for revision in range(1, 6):
                seal(spool, key(number=number, revision=revision))
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            problems.append(error)

    sweeper = threading.Thread(target=sweep)
    stagers = [threading.Thread(target=stage, args=(number,)) for number in (1, 2)]
    sweeper.start()
    for thread in stagers:
        thread.start()
    for thread in stagers:
        thread.join()
    stop.set()
    sweeper.join()
    assert problems == []
    assert len(names(path)) == 10


def test_a_sweep_gives_way_to_another_one(spool, path):
    seal(spool)
    (path / FOLDER).rename(path / f".{FOLDER}.1-0123abcd.tmp")
    other = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        spool.sweep()
        assert len(names(path)) == 1
    finally:
        os.close(other)
    spool.sweep()
    assert names(path) == []


def test_the_folder_of_a_bundle_has_a_name_that_is_read_back():
    assert folders.parse_folder(folders.folder_name(key(revision=12))) == key(revision=12)
    with pytest.raises(ValueError, match="not the folder"):
        folders.parse_folder("something else")


# -- disks -----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """Give a spool on a disk with 12 names, and 64 KiB beside what is kept free."""
    mount = tmp_path / "disk"
    mount.mkdir()
    options = f"size={KEPT_FREE + (64 << 10)},nr_inodes=12,mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", mount], check=True)
    try:
        spool = Spool(mount)
        spool.check()
        yield spool, mount
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)


def write_all(file, data):
    for start in range(0, len(data), 1000):
        file.write(data[start : start + 1000])


def test_a_full_disk_is_named_and_what_was_begun_is_cleaned_away(small_disk):
    spool, mount = small_disk
    name = bundle(key()).files[0].name
    with spool.stage(key()) as staging:
        with pytest.raises(SpoolFull, match=name), staging.create(name) as file:
            write_all(file, bytes(100_000))
        assert 50_000 < file.size < 64 << 10
        assert shutil.disk_usage(mount).free >= KEPT_FREE
    assert names(mount / "spool") == []
    seal(spool)


def test_a_disk_without_names_left_is_full(small_disk):
    spool, mount = small_disk
    with spool.stage(key()) as staging:
        write(staging, contents(key()))
        for number in range(12):
            try:
                (mount / str(number)).touch()
            except OSError:
                break
        with pytest.raises(SpoolFull):
            staging.seal(bundle(key()))
    assert names(mount / "spool") == []


def test_a_disk_that_became_read_only_is_an_error_of_the_disk(small_disk):
    spool, mount = small_disk
    subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
    with pytest.raises(SpoolIO), spool.stage(key()):
        pass


def test_a_large_file_is_synced_while_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(staging_module, "_SYNC_EVERY", 1000)
    spool = Spool(tmp_path)
    spool.check()
    synced, real = Semaphore(0), os.fsync

    def fsync(descriptor):
        real(descriptor)
        synced.release()

    with spool.stage(key()) as staging:
        monkeypatch.setattr(os, "fsync", fsync)
        with staging.create(bundle(key()).files[0].name) as file:
            file.write(bytes(999))
            assert not synced.acquire(timeout=0.1)
            file.write(bytes(1))
            assert synced.acquire(timeout=10)
            file.write(bytes(1500))
            assert synced.acquire(timeout=10)


def test_a_sync_that_fails_while_a_file_is_written_keeps_the_bundle_from_being_sealed(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(staging_module, "_SYNC_EVERY", 100)
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == 1:
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    spool = Spool(tmp_path)
    spool.check()
    real = os.fsync
    with spool.stage(key()) as staging:
        monkeypatch.setattr(os, "fsync", fsync)
        write(staging, contents(key()))
        with pytest.raises(SpoolIO, match="Input/output error"):
            staging.seal(bundle(key()))
    assert names(tmp_path / "spool") == []


# -- system calls ----------------------------------------------------------------------------------


def traced(state, *options):
    """Seal in a process under strace; give its end and the system calls on the spool."""
    log = state.parent / "strace.log"
    # Not through the virtual environment's link: strace starts the binary itself.
    python = Path(sys.executable).resolve()
    done = subprocess.run(
        ["strace", "-y", "-o", log, *options, python, "-c", SEAL, state, "seal"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])},  # noqa: PTH109
        capture_output=True,
        text=True,
        check=False,
    )
    calls = [re.sub(r"^[0-9]+ +", "", line) for line in log.read_text("utf-8").splitlines()]
    return done, [call for call in calls if "/spool" in call]


def step(call):
    """Name the step of a seal that a system call is."""
    if call.startswith("rename"):
        return "rename"
    for part, name in ((".pgp>", "file"), ("bundle.json>", "bundle.json"), (".tmp>", "folder")):
        if part in call:
            return name
    return "spool"


def test_each_step_of_a_seal_is_durable_before_the_next(spool, path):
    done, calls = traced(path.parent, "-f", "-e", "trace=fsync,rename,renameat,renameat2")
    assert done.returncode == 0, done.stderr
    steps = [step(call) for call in calls if "resumed" not in call]
    assert steps == [*["file"] * 4, "bundle.json", "folder", "rename", "spool"]
    assert spool.bundle(key()) == bundle(key())


# strace counts by thread: -f meets the first fsync of a file; without it only the main thread is
# seen, which syncs bundle.json, the folder and, after the rename, the spool.
PLACES = [("-f", 1), ("-y", 1), ("-y", 2), ("-y", 3)]


@pytest.mark.parametrize(("follow", "when"), PLACES)
@pytest.mark.parametrize(("name", "code"), [("EIO", "SpoolIO"), ("ENOSPC", "SpoolFull")])
def test_a_failed_fsync_discards_the_bundle(spool, path, follow, when, name, code):
    inject = f"inject=fsync:error={name}:when={when}"
    done, _ = traced(path.parent, follow, "-e", "trace=fsync", "-e", inject)
    assert done.returncode == 1
    assert f"mxdeliver.core.errors.{code}" in done.stderr
    assert names(path) == []
    seal(spool)


@pytest.mark.parametrize(("follow", "when"), PLACES)
def test_killed_at_any_fsync_the_bundle_is_whole_or_not_there(spool, path, follow, when):
    inject = f"inject=fsync:signal=KILL:when={when}"
    done, _ = traced(path.parent, follow, "-e", "trace=fsync", "-e", inject)
    assert done.returncode != 0
    whole = spool.bundle(key())
    assert (whole is not None) is (when == 3)
    spool.sweep()
    if whole is None:
        assert names(path) == []
        seal(spool)
    for artifact in bundle(key()).files:
        spool.verify(key(), artifact)


def test_a_bundle_copied_elsewhere_is_the_same(spool, path, tmp_path):
    seal(spool)
    copy = Spool(tmp_path / "copy")
    copy.check()
    shutil.copytree(path / FOLDER, tmp_path / "copy" / "spool" / FOLDER)
    assert list(copy.bundles()) == [bundle(key())]
    artifact = bundle(key()).files[0]
    with pytest.raises(SpoolCorrupt, match="was changed"):
        copy.verify(key(), replace(artifact, encrypted_checksum="0" * 64))
