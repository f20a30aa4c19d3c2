"""What the README shows is what the program takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from mxdeliver.cli import root
from mxdeliver.edge.config import load

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"^\$ (mxdeliver .+?)(?: +#.*)?$", README, re.MULTILINE)))


def test_the_configuration_for_one_client_is_read_and_has_nothing_wrong(tmp_path):
    (text,) = re.findall(r"```yaml\n(.+?)```", README, re.DOTALL)
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    configuration = load(tmp_path / "config.yaml")
    assert configuration.broken == ()
    (client,) = configuration.clients
    assert client.resources == ("tags",)


def test_a_working_delivery_stands_before_line_25_and_the_whole_is_short():
    lines = README.splitlines()
    assert any("decrypted and found right" in line for line in lines[:24])
    assert len(lines) < 150


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_for_the_shell_are_the_programs_own(line):
    _, name, *rest = shlex.split(line.partition(">")[0])
    command = root.get_command(click.Context(root), name)
    assert command is not None
    if isinstance(command, click.Group):
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(name, rest)
