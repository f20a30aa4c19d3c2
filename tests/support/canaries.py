"""Values that may show nowhere, in every form in which they could; and where a process leaves traces.

canaries = Canaries()
canaries.add("the password", "correct horse")
canaries.add("a balance", 7316428809153571)
canaries.found({"stderr": done.stderr})        # ["the password in stderr (base64)", …]
"""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from mxdeliver.edge.avro.container import encode_long

_PACKED = re.compile(rb"\x1f\x8b\x08|\x78[\x01\x9c\xda]|\x28\xb5\x2f\xfd")
_INFLATED_AT_MOST = 4 * 1024 * 1024


class Canaries:
    """What to look for, by what it is."""

    def __init__(self) -> None:
        self._forms: dict[str, dict[str, set[bytes]]] = {}

    def add(self, what: str, value: str | bytes | float) -> None:
        """Look for `value` from now on."""
        self._forms[what] = dict(_forms(value))

    def found(self, traces: Mapping[str, bytes | str]) -> list[str]:
        """Tell which canary is in which trace, and how it is written there."""
        return [
            f"{what} in {name} ({form})"
            for name, trace in traces.items()
            for content in _with_inflated(trace.encode() if isinstance(trace, str) else trace)
            for what, forms in self._forms.items()
            for form, needles in forms.items()
            if any(needle in content for needle in needles)
        ]


def _forms(value: str | bytes | float) -> Iterator[tuple[str, set[bytes]]]:
    if isinstance(value, str):
        yield "UTF-16", {value.encode("utf-16-le"), value.encode("utf-16-be")}
        yield from _byte_forms(value.encode())
    elif isinstance(value, bytes):
        yield from _byte_forms(value)
    else:
        yield from _forms(str(value))
        kind = "d" if isinstance(value, float) else "q"
        packed = {struct.pack(f"{order}{kind}", value) for order in "<>"}
        if isinstance(value, int):
            packed |= {encode_long(value), struct.pack("<d", value), f"{value:_}".encode()}
            packed |= {f"{value:,}".encode(), f"{value:x}".encode()}
        yield "binary", packed


def _byte_forms(value: bytes) -> Iterator[tuple[str, set[bytes]]]:
    yield "as it is", {value}
    yield "hex", {value.hex().encode(), value.hex().upper().encode(), value.hex(" ").encode()}
    yield "base64", {_base64_within(value, before) for before in range(3)}
    yield "backwards", {value[::-1]}


def _base64_within(value: bytes, before: int) -> bytes:
    """Give what base64 makes of `value` alone, `before` bytes behind the start of a group."""
    encoded = base64.b64encode(bytes(before) + value)
    first = (0, 2, 3)[before]
    last = (before + len(value)) * 8 // 6
    return encoded[first:last]


def _with_inflated(content: bytes) -> Iterator[bytes]:
    yield content
    for match in _PACKED.finditer(content):
        inflater = zlib.decompressobj(47)  # zlib's or gzip's head
        with suppress(zlib.error):
            inflated = inflater.decompress(content[match.start() :], _INFLATED_AT_MOST)
            if len(inflated) > 8:
                yield inflated


def files(folders: Iterable[Path], given: Mapping[Path, bytes] = {}) -> dict[str, bytes]:
    """Read every file below the folders but those that are still as they were given."""
    found = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                content = path.read_bytes()
                if given.get(path) != content:
                    found[str(path)] = content
    return found


def of_process(process: int, given: Iterable[Path]) -> dict[str, bytes]:
    """Read what a process that stands still shows of itself and of its children.

    Its arguments, its threads' names, and every file that it holds open and could have written,
    also one that has no name any more; of its children arguments and environment.
    """
    home = Path(f"/proc/{process}")
    found = {"arguments": (home / "cmdline").read_bytes()}
    for task in (home / "task").iterdir():
        found[f"name of thread {task.name}"] = (task / "comm").read_bytes()
    inputs = {str(path) for path in given}
    for descriptor in (home / "fd").iterdir():
        with suppress(OSError):
            target = str(descriptor.readlink())
            if descriptor.is_file() and target not in inputs:
                found[f"open file {target}"] = descriptor.read_bytes()
    for child in children(process):
        for name in ("cmdline", "environ"):
            with suppress(OSError):
                found[f"{name} of child {child}"] = Path(f"/proc/{child}/{name}").read_bytes()
    return found


def children(process: int) -> list[int]:
    """Give the ids of the processes that a process has started and that still run."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            facts = status.read_text().rpartition(")")[2].split()
            if int(facts[1]) == process:
                found.append(int(status.parent.name))
    return found


def is_stopped(process: int) -> bool:
    """Tell whether a process stands still, as after SIGSTOP."""
    facts = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return facts[0] in {"T", "t"}
