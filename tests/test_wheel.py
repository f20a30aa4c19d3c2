"""The wheel holds everything that the program needs, and works where no checkout is."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check",
         "--no-deps", "--wheel-dir", folder, CHECKOUT],
        check=True,
    )  # fmt: skip
    (built,) = folder.glob("mxdeliver-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Give the bin folder of a new environment with the wheel and the dependencies alone.

    The dependencies are those that the tests run with: a .pth file names their folder. The .pth
    files in it, one of which leads to the checkout, count for nothing there.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet",
         "--disable-pip-version-check", "--no-deps", "--no-index", wheel],
        check=True,
    )  # fmt: skip
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_the_wheel_carries_schemas_migrations_and_the_sample_configuration(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    schemas = {f"mxdeliver/schemas/{path.name}" for path in (CHECKOUT / "schemas").glob("*.avsc")}
    migrations = {
        str(path.relative_to(CHECKOUT))
        for path in (CHECKOUT / "mxdeliver" / "edge" / "ledger" / "migrations").rglob("*.py")
    }

    assert len(schemas) >= 25
    assert migrations
    assert schemas | migrations <= held
    assert {
        "mxdeliver/py.typed",
        "mxdeliver/config.example.yaml",
        "mxdeliver/schemas/delivery-log.schema.json",
    } <= held
    assert not [name for name in held if name.startswith("tests/")]


def test_the_installed_program_is_not_the_checkouts(installed, tmp_path):
    found = subprocess.run(
        [installed / "python", "-c", "import mxdeliver; print(mxdeliver.__file__)"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert Path(found.stdout.strip()).is_relative_to(installed.parent)


def test_the_installed_program_says_its_version_and_prints_its_sample(installed, tmp_path):
    for arguments, expected in (
        (["--version"], "mxdeliver, version"),
        (["config", "sample"], "clients:"),
    ):
        done = subprocess.run(
            [installed / "mxdeliver", *arguments],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert expected in done.stdout


def test_the_installed_program_gives_a_working_demo(installed, tmp_path):
    done = subprocess.run(
        [installed / "mxdeliver", "demo", "--scale", "0.1"],
        cwd=tmp_path, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    received = tmp_path / "mxdeliver-demo" / "received"
    names = [path.name for path in received.rglob("*") if path.is_file()]
    assert len(names) == 3 * 2 * 64
    log = (tmp_path / "mxdeliver-demo" / "logs" / "deliveries.jsonl").read_text()
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert events.count("delivery.delivered") == 6
