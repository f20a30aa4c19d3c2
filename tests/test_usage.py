"""What every command refuses on its command line."""

from __future__ import annotations

import json
import subprocess

import click
import pytest

from mxdeliver.cli import root
from tests.support.deployment import PROGRAM

NOTHING = click.Context(root)


def commands(group, *before):
    for name in group.list_commands(NOTHING):
        command = group.get_command(NOTHING, name)
        if isinstance(command, click.Group):
            yield from commands(command, *before, name)
        else:
            yield (*before, name), command


def one_valued(command):
    return [
        option
        for option in command.params
        if isinstance(option, click.Option)
        and not (option.multiple or option.is_flag or option.count)
    ]


ONCE = {
    f"{' '.join(words)} {option.opts[-1]}": (*words, *[option.opts[-1], "2026-11-20"] * 2)
    for words, command in commands(root)
    for option in one_valued(command)
}


def test_there_are_such_options_and_the_clients_of_a_run_are_none_of_them():
    assert {"run --date", "run --from", "run --to", "status --date", "resume --config"} <= set(ONCE)
    assert "run --client" not in ONCE


@pytest.mark.parametrize("name", ONCE)
def test_an_option_of_one_value_is_taken_once(name):
    with pytest.raises(click.UsageError, match=r"--[a-z-]+ is given 2 times; give it once"):
        root.main(args=list(ONCE[name]), prog_name="mxdeliver", standalone_mode=False)


def test_a_second_date_is_wrong_usage_also_in_json():
    asked = [*PROGRAM, "run", "--date", "2026-11-20", "--date=2026-11-21", "--json"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "--date is given 2 times; give it once" in done.stderr
    error = json.loads(done.stdout)["error"]
    assert (error["code"], error["message"]) == ("USAGE", "--date is given 2 times; give it once")
