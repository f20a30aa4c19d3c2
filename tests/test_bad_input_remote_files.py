"""Something lies under a final name already: it is never replaced, and nothing appears beside it."""

from __future__ import annotations

import pytest

from tests.support.invariants import everyone_watched
from tests.support.openssh import OpenSSHServer
from tests.support.outcomes import (
    DAY,
    add_client,
    assert_delivered,
    fill,
    next_step,
    run_day,
    small_deployment,
)

FOREIGN = b"nothing of ours"


def other_content(path):
    path.write_bytes(FOREIGN)
    path.chmod(0o644)


def empty_file(path):
    path.touch()


def directory(path):
    path.mkdir()
    (path / "inside").write_bytes(FOREIGN)


def dangling_link(path):
    path.symlink_to("nowhere")


def link_to_a_file(path):
    (path.parent.parent / f"aside-{path.name}").write_bytes(FOREIGN)
    path.symlink_to(path.parent.parent / f"aside-{path.name}")


OBSTACLES = [other_content, empty_file, directory, dangling_link, link_to_a_file]
NAMES = ["{guid}.{day}.users.created.avro.pgp", "{guid}.{day}-manifest.csv.pgp"]


def seen(folder):
    """What lies in a folder and below it, hidden names too."""
    return {
        str(path.relative_to(folder)): (
            str(path.readlink())
            if path.is_symlink()
            else "directory"
            if path.is_dir()
            else path.read_bytes()
        )
        for path in folder.rglob("*")
    }


class Bench:
    """One run of a client for each obstacle under each kind of name."""

    def __init__(self, deployment):
        self.deployment = deployment
        self.healthy = add_client(self.deployment, "healthy")
        self.parties, self.before = {}, {}
        for obstacle in OBSTACLES:
            for name in NAMES:
                party = add_client(self.deployment, f"{obstacle.__name__} {len(self.parties)}")
                path = party.directory / name.format(guid=party.guid, day=DAY)
                obstacle(path)
                self.parties[obstacle, name] = party, path
                self.before[party.guid] = seen(party.directory)
        fill(self.deployment)
        self.outcome = run_day(self.deployment)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote")
    with OpenSSHServer(folder) as server:
        deployment = small_deployment(folder, server)
        with everyone_watched(deployment) as told:
            bench = Bench(deployment)
            told["foreign"] = frozenset(path.name for _, path in bench.parties.values())
        yield bench


@pytest.mark.parametrize("name", NAMES, ids=["daily file", "manifest"])
@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_lies_under_a_final_name_stays_as_it_is_and_nothing_joins_it(bench, obstacle, name):
    party, path = bench.parties[obstacle, name]
    row = bench.outcome.row(party)
    assert (row["state"], row["error_code"]) == ("parked", "REMOTE_CONFLICT")
    assert seen(party.directory) == bench.before[party.guid]
    line = bench.outcome.line(party)
    assert f"{DAY}: parked, REMOTE_CONFLICT: {path} on 127.0.0.1:" in line
    assert "Ask the client to move it away, then `mxdeliver resume`" in line


def test_the_other_client_is_delivered_beside_them(bench):
    assert bench.outcome.status == 1
    assert_delivered(bench.outcome, bench.healthy)


def test_moved_away_and_resumed_the_day_is_delivered(bench):
    party, path = bench.parties[other_content, NAMES[0]]
    assert "parked REMOTE_CONFLICT since" in next_step(bench.deployment, party)
    path.unlink()
    assert bench.deployment.run("resume", "--client", party.guid).returncode == 0
    again = run_day(bench.deployment, "--client", party.guid)
    assert again.status == 0
    assert_delivered(again, party)
