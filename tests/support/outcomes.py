"""What a run did to each client, and what may show nowhere.

    deployment = small_deployment(folder, server)
    healthy = deployment.add_client("Healthy Union", key=0)
    broken = deployment.add_client("Broken Bank", key=0, sftp={"port": 22})
    fill(deployment)
    outcome = run_day(deployment)
    outcome.row(healthy)["state"]
    outcome.line(broken)             # what standard error says of it

Clients are owed nothing by themselves (`active_since` lies far ahead): a run without a date tries
again what a run with one has begun, and nothing else.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # ships no types

from tests.support.deployment import DeliveryServer, Deployment, Party
from tests.support.warehouse import make_warehouse

DAY = (datetime.now(UTC) - timedelta(days=2)).date()
"""Closed in every zone, and inside the days that are made up for."""
RESOURCES = ["users", "tags"]
FILES = 7
"""Three events of two resources, and the manifest."""
VALUE = "é✓"
"""In every text of the warehouse's records; json.dumps would escape it."""
_ROOT = Path(__file__).parents[2]
_ESCAPED = json.dumps(VALUE)[1:-1].encode()


def small_deployment(folder: Path, server: DeliveryServer) -> Deployment:
    """Give a deployment whose clients get two resources, are tried once a run, and owe no days."""
    deployment = Deployment(folder, server)
    deployment.document["retry"] = {"attempts": 1, "initial": "1s", "maximum": "1s"}
    deployment.document["defaults"] = {"active_since": "2999-01-01"}
    return deployment


def add_client(deployment: Deployment, name: str, **changes: Any) -> Party:
    """Add a client that gets the small resources and has the first key pair."""
    return deployment.add_client(name, key=0, **{"resources": RESOURCES, **changes})


def fill(deployment: Deployment, rows: int = 3) -> None:
    """Make a warehouse in which every client has users on the day."""
    make_warehouse(
        deployment.warehouse,
        clients=[party.guid for party in deployment.parties],
        days=[DAY],
        rows=rows,
        filled=["users"],
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a `run --json` ended."""

    status: int
    document: dict[str, Any]
    stderr: str

    def row(self, party: Party) -> dict[str, Any]:
        """Give the client's delivery."""
        (row,) = (one for one in self.document["deliveries"] if one["client_guid"] == party.guid)
        found: dict[str, Any] = row
        return found

    def line(self, party: Party) -> str:
        """Give the one line of standard error that names the client."""
        start = f"mxdeliver: {party.entry['name']}"
        (line,) = (
            one for one in self.stderr.splitlines() if one.startswith((f"{start},", f"{start}:"))
        )
        return line


def run_day(
    deployment: Deployment,
    *arguments: str,
    command: str = "run",
) -> Outcome:
    """Run the day (with other `arguments`: those), and look for secrets and records in all traces."""
    chosen = arguments or ("--date", str(DAY))
    return _outcome(deployment, deployment.run(command, *chosen, "--json"))


def _outcome(deployment: Deployment, done: subprocess.CompletedProcess[str]) -> Outcome:
    assert done.stdout, done.stderr
    assert_discreet(deployment, done)
    return Outcome(status=done.returncode, document=json.loads(done.stdout), stderr=done.stderr)


def run_due(deployment: Deployment, later: str | None = None) -> Outcome:
    """Run without a date, `later` (such as `+3h`) than now by the program's clock."""
    done = deployment.run("run", "--json", environment=None if later is None else clock(later))
    return _outcome(deployment, done)


def clock(later: str) -> dict[str, str]:
    """Give the environment in which a program's clock runs ahead by so much."""
    return {
        "LD_PRELOAD": "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        "FAKETIME": later,
        "DONT_FAKE_MONOTONIC": "1",
    }


def assert_log_is_valid(deployment: Deployment) -> None:
    """Every line of the delivery log is as its published schema says."""
    schema = json.loads((_ROOT / "schemas/delivery-log.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    for line in deployment.log_lines():
        validator.validate(line)


def next_step(deployment: Deployment, party: Party) -> str:
    """Give what `status` says about the client, on one line."""
    done = deployment.run("status", "--client", party.guid)
    assert_discreet(deployment, done)
    return " ".join(done.stdout.split())


def assert_discreet(deployment: Deployment, done: subprocess.CompletedProcess[str]) -> None:
    """Find neither password nor record in the output, the log, the ledger or the spool."""
    traces = {"stdout": done.stdout.encode(), "stderr": done.stderr.encode()}
    for folder in ("logs", "state"):
        for path in (deployment.folder / folder).rglob("*"):
            if path.is_file():
                traces[str(path)] = path.read_bytes()
    secrets = {deployment.server.password.encode(), deployment.secret_path.read_bytes().strip()}
    for name, content in traces.items():
        for word in (VALUE.encode(), _ESCAPED, *secrets):
            assert word not in content, f"{word!r} is in {name}"


def assert_delivered(outcome: Outcome, party: Party) -> None:
    """The client has all files of its day, and nothing else lies there."""
    assert outcome.row(party)["state"] == "delivered"
    assert outcome.row(party)["error_code"] is None
    assert len(party.received()) == FILES
    assert party.leftovers() == []


def assert_nothing_arrived(party: Party) -> None:
    """The client's directory is as empty as it was."""
    assert list(party.directory.iterdir()) == []
