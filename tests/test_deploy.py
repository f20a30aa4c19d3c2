"""The files in deploy/ are what systemd, cron and a container build take."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest
from click import Context

from mxdeliver.cli import root

DEPLOY = Path(__file__).parent.parent / "deploy"
README = (DEPLOY / "README.md").read_text(encoding="utf-8")
PROGRAM = "/opt/mxdeliver/bin/mxdeliver"
SERVICES = ("mxdeliver.service", "mxdeliver-schedule.service")
UNITS = (*SERVICES, "mxdeliver.timer")
MOST_EXPOSURE = 2.0


@pytest.fixture
def units(tmp_path):
    """The units with a program that exists in the place of the installed one."""
    program = tmp_path / "mxdeliver"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in UNITS:
        text = (DEPLOY / name).read_text()
        (tmp_path / name).write_text(text.replace(PROGRAM, str(program)))
    return tmp_path


def systemd_analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "notice", "NO_COLOR": "1", "TZ": "UTC"},
    )


def sections(text: str) -> dict[str, list[str]]:
    """Give the unit's settings by section, as systemd reads them."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("["):
            found[line] = []
        elif line and not line.startswith("#"):
            found[list(found)[-1]].append(line)
    return found


@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_wrong_with_the_unit(units, name):
    verified = systemd_analyze("verify", "--man=no", units / name)

    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_systemd_would_find_a_misspelt_setting(units):
    unit = units / "mxdeliver.service"
    unit.write_text(unit.read_text().replace("ProtectSystem=", "ProtectSytsem="))

    assert "ProtectSytsem" in systemd_analyze("verify", "--man=no", unit).stderr


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_exposed_to_little(units, name):
    analysed = systemd_analyze("security", "--offline=true", "--no-pager", units / name)

    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", analysed.stdout)
    assert exposure is not None, analysed.stderr
    assert float(exposure[1]) < MOST_EXPOSURE


@pytest.mark.parametrize("name", SERVICES)
def test_record_values_reach_neither_swap_nor_core_files(name):
    settings = sections((DEPLOY / name).read_text())["[Service]"]

    assert {"LimitCORE=0", "MemorySwapMax=0", "UMask=0077", "StateDirectoryMode=0700"} <= set(
        settings
    )
    assert any(setting.startswith("LoadCredential=") for setting in settings)


@pytest.mark.parametrize("name", SERVICES)
def test_the_directories_made_beforehand_are_those_of_the_services(name):
    settings = sections((DEPLOY / name).read_text())["[Service]"]
    found = dict(setting.split("=", 1) for setting in settings)
    made = [
        line.split()
        for line in (DEPLOY / "tmpfiles.conf").read_text().splitlines()
        if not line.startswith("#")
    ]

    owner = [found["User"], found["Group"], "-"]
    state, logs = f"/var/lib/{found['StateDirectory']}", f"/var/log/{found['LogsDirectory']}"
    assert made == [
        ["d", state, found["StateDirectoryMode"], *owner],
        ["d", logs, found["LogsDirectoryMode"], *owner],
    ]


def test_the_commands_for_the_shell_are_the_programs_own():
    lines = re.findall(r"^runuser -u mxdeliver -- (.+)$", README, re.MULTILINE)
    assert {shlex.split(line)[1] for line in lines} == {"check", "status", "resume", "resend"}
    for line in lines:
        program, command, *options = shlex.split(line)
        assert program == PROGRAM
        parsed = root.get_command(Context(root), command)
        with parsed.make_context(command, options) as context:
            assert context.params["config_path"] == Path("/etc/mxdeliver/config.yaml")


def test_files_that_the_readme_installs_are_there():
    installed = re.findall(r"^install (?:-D )?-m 0644 (.+) /etc/", README, re.MULTILINE)
    names = {name for line in installed for name in line.split()}
    assert names == {"sysusers.conf", "tmpfiles.conf", "mxdeliver.service", "mxdeliver.timer"}
    assert all((DEPLOY / name).exists() for name in names)


def test_both_services_may_do_the_same():
    run, schedule = (
        (DEPLOY / name)
        .read_text()
        .partition("# -- what the process may do")[2]
        .partition("[Install]")
        for name in SERVICES
    )

    assert run[0].strip() == schedule[0].strip()
    assert "SystemCallFilter" in run[0]


def test_a_wait_for_a_retry_is_no_failure_of_the_unit():
    assert "SuccessExitStatus=75" in (DEPLOY / "mxdeliver.service").read_text().splitlines()


def test_the_timer_fires_every_quarter_of_an_hour_and_makes_up_for_lost_time():
    timer = ConfigParser(delimiters="=")
    timer.optionxform = str  # keeps the case of names
    timer.read(DEPLOY / "mxdeliver.timer")

    assert timer["Timer"]["Persistent"] == "true"
    calendar = systemd_analyze("calendar", "--iterations=4", timer["Timer"]["OnCalendar"])
    assert set(re.findall(r":(\d\d):00 UTC$", calendar.stdout, re.MULTILINE)) == {
        "00", "15", "30", "45",
    }  # fmt: skip


def test_the_crontab_line_has_five_fields_and_the_programs_own_command():
    lines = [
        line
        for line in (DEPLOY / "crontab").read_text().splitlines()
        if line and not line.startswith("#") and "=" not in line.split()[0]
    ]
    assert len(lines) == 1
    fields = lines[0].split(maxsplit=5)
    minute, *others, command = fields

    assert minute == "*/15"
    assert others == ["*"] * 4
    assert "%" not in command, "cron turns it into a line end"
    assert shlex.split(command)[:2] == [PROGRAM, "run"]


def test_the_image_runs_as_somebody_other_than_root_and_copies_nothing_secret():
    instructions = [
        line.split(maxsplit=1)
        for line in (DEPLOY / "Dockerfile").read_text().splitlines()
        if re.match(r"[A-Z]+ ", line)
    ]
    users = [rest for word, rest in instructions if word == "USER"]
    copied = {
        source
        for word, rest in instructions
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }

    assert users
    assert users[-1].split(":")[0] not in {"root", "0"}
    assert copied == {"pyproject.toml", "README.md", "config.example.yaml", "schemas", "mxdeliver"}
    assert ["ENTRYPOINT", '["mxdeliver"]'] in instructions
    for source in copied:
        assert (DEPLOY.parent / source).exists()
