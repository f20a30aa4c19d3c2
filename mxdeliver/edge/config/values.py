"""The grammar of single values: what a port, a fingerprint, a duration may look like.

Each function takes what YAML gave and returns the finished value, or raises with a problem and a
remedy. No message repeats the value: it may be a password in the wrong place.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import re
from collections.abc import Iterable
from datetime import timedelta
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from zoneinfo import ZoneInfo, available_timezones

from pydantic_core import PydanticCustomError

from mxdeliver.core import naming
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.errors import ConfigInvalid, PortNotAllowed
from mxdeliver.core.manifest import STANDARD_RESOURCES
from mxdeliver.core.secret import SecretKind, SecretReference

_DURATION = re.compile(r"(0|[1-9][0-9]{0,7})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = timedelta(days=366)
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_ENVIRONMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CREDENTIAL = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,254}")
_KEY_TYPE = re.compile(r"(ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+")
_MEMORY = re.compile(r"[1-9][0-9]*(\.[0-9]+)? ?[KMGT]i?B", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_EVERY_IPV4 = IPv6Network("::ffff:0:0/96")

PIN_REMEDY = "paste a line that `mxdeliver hostkey HOST:PORT` prints"
SECRET_REMEDY = "write {env: NAME}, {file: PATH} or {credential: NAME}"  # noqa: S105 - words, not a secret


def wrong(problem: str, remedy: str, code: str = ConfigInvalid.code) -> PydanticCustomError:
    """Make the error that carries a problem, its remedy and its code through pydantic."""
    context = {"problem": problem, "remedy": remedy, "code": code}
    return PydanticCustomError("wrong", "{problem}", context)


def suggestion(word: object, known: Iterable[str]) -> str | None:
    """Give the known word that was probably meant."""
    if not isinstance(word, str):
        return None
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[near[0]] if near else None


def given(value: object) -> object:
    """Refuse a key that is there, but empty."""
    if value is None:
        raise wrong("is empty", "give a value or remove the key")
    return value


def text(value: object) -> str:
    """Take text, and a number as it was written; one line, not empty."""
    if type(value) is int:
        return str(value)
    if given(value) == "":
        raise wrong("is empty", "give a value or remove the key")
    if not isinstance(value, str):
        raise wrong("must be text", "write one value, in quotes if need be")
    if _CONTROL.search(value):
        raise wrong("holds a line break or another control character", "write it on one line")
    return value


def sql(value: object) -> str:
    """Take SQL: text that may run over lines."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise wrong("must be SQL text", "write the statement in quotes or after `|`")
    return value


def file_path(value: object) -> str:
    """Take a path as written; where it counts from is known to the caller."""
    path = text(value)
    if path.startswith("~"):
        raise wrong("begins with ~, which is not expanded", "write the path out")
    return path


def duration(value: object) -> timedelta:
    """Take `2s`, `75m`, `6h` or `1d`; at most 366 days."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise wrong("is not a duration", "write a number and s, m, h or d, such as 75m")
    seconds = int(match[1]) * _SECONDS[match[2]]
    if seconds > _LONGEST.total_seconds():
        raise wrong("is longer than 366 days", "write a shorter duration")
    return timedelta(seconds=seconds)


def wait(value: object) -> timedelta:
    """Take a duration above zero."""
    length = duration(value)
    if not length:
        raise wrong("must be longer than zero", "write a duration such as 2s")
    return length


def day(value: object) -> SnapshotDate:
    """Take a date of the form YYYY-MM-DD."""
    try:
        return SnapshotDate.parse(text(value))
    except ValueError:
        raise wrong("is not a date", "write YYYY-MM-DD, such as 2026-01-31") from None


def client_guid(value: object) -> str:
    """Take a client's guid."""
    guid = text(value)
    if not naming.CLIENT_GUID.fullmatch(guid):
        remedy = "write three capital letters, a hyphen and a lower-case UUID, such as CLT-0858efd1-2d2e-6a5d-f2b5-c7dad42ef184"
        raise wrong("is not a client guid", remedy)
    return guid


def client_name(value: object) -> str:
    """Take a client's name; commands take a name or a guid, so it must not look like one."""
    name = text(value).strip()
    if not name or naming.CLIENT_GUID.fullmatch(name):
        raise wrong("is not a name", "write the client's name in words")
    return name


def zone(value: object) -> ZoneInfo:
    """Take a name of the IANA time zone database; the host's own zone is none of them."""
    name = text(value)
    unusable = name in {"localtime", "Factory", "posixrules"}
    try:
        if not unusable and not name.startswith(("posix/", "right/")):
            return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # unknown; a folder of zones; `../` and the like
        pass
    near = suggestion(name, _zone_names())
    hint = f"did you mean {near}?" if near else "write a name such as UTC or America/Denver"
    raise wrong("is not a time zone", hint)


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(available_timezones())  # reads the whole database


def resource_name(value: object) -> str:
    """Take the lower-case name of a resource; whether a schema has it is seen by `loading`."""
    name = text(value)
    if not naming.RESOURCE_NAME.fullmatch(name):
        near = suggestion(name, STANDARD_RESOURCES)
        hint = f"did you mean `{near}`?" if near else "write it in lower case, such as accounts"
        raise wrong("is not a resource's name", hint)
    return name


def resources(value: object) -> object:
    """Turn `standard` into the seed's 21 resources; a list goes on to be looked at one by one."""
    if value == "standard":
        return list(STANDARD_RESOURCES)
    if not isinstance(value, list):
        raise wrong(
            "is not a list of resources", "write `standard` or a list such as [users, accounts]"
        )
    return value


def fingerprint(value: object) -> str:
    """Take an OpenPGP version 4 fingerprint (RFC 4880, 12.2) without regard to spaces and case."""
    digits = re.sub(r"\s", "", text(value)).removeprefix("0x").upper()
    if not re.fullmatch(r"[0-9A-F]+", digits):
        raise wrong("is not a fingerprint", "copy the line that `mxdeliver key FILE` prints")
    if len(digits) != 40:
        kind = {8: "a short key id", 16: "a key id", 64: "a version 6 fingerprint"}
        problem = f"has {len(digits)} digits ({kind.get(len(digits), 'not a fingerprint')}), not 40"
        raise wrong(problem, "copy the full fingerprint that `mxdeliver key FILE` prints")
    return digits


def host(value: object) -> str:
    """Take a host name or an address in the notations of `ipaddress`, and no other."""
    name = text(value)
    try:
        address = ip_address(name)
    except ValueError:
        pass
    else:
        return str(getattr(address, "ipv4_mapped", None) or address)
    labels = name.removesuffix(".").split(".")
    # 0x7f.1 and 2130706433 are addresses to the C library, past every list of allowed ones
    if _NUMBER.fullmatch(labels[-1]) or len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        remedy = "write a name or an address alone, without user, port, brackets or scheme"
        raise wrong("is neither a host name nor an address", remedy)
    return name


def port(value: object) -> int:
    """Take a port other than 22."""
    if type(value) is not int or not 1 <= value <= 65535:
        raise wrong("is not a port", "write a number from 1 to 65535 without quotes, such as 8022")
    if value == 22:
        remedy = "ask the client for a port other than 22"
        raise wrong("port 22 is refused", remedy, PortNotAllowed.code)
    return value


def network(value: object) -> IPv4Network | IPv6Network:
    """Take an address or a network; an IPv4 address inside IPv6 becomes what it is."""
    written = text(value)
    try:
        found = ip_network(written, strict=False)
    except ValueError:
        found = None
    if found is None or "%" in written:
        remedy = "write an address or a network, such as 203.0.113.7 or 203.0.113.16/28"
        raise wrong("is not an IP address or network", remedy)
    if found.network_address != ip_address(written.partition("/")[0]):
        problem = f"has an address inside a /{found.prefixlen} network where its first belongs"
        raise wrong(problem, f"write {found}, or the address alone")
    if isinstance(found, IPv6Network) and found.supernet_of(_EVERY_IPV4):
        raise wrong("lets every address in", "name the addresses of the client's server")
    if isinstance(found, IPv6Network) and found.network_address.ipv4_mapped is not None:
        mapped = found.network_address.ipv4_mapped
        return IPv4Network((int(mapped), found.prefixlen - 96))
    if found.prefixlen == 0:
        raise wrong("lets every address in", "name the addresses of the client's server")
    return found


def directory(value: object) -> str:
    """Take a remote directory, literally; a slash at its end says nothing."""
    if value == "":
        return ""
    name = text(value)
    if ".." in name.split("/"):
        raise wrong("climbs with `..`", "write the directory itself")
    if name.startswith("~"):
        raise wrong(
            "begins with ~, which is not expanded",
            "leave `~/` out: relative paths count from the login directory",
        )
    return name.rstrip("/") or "/"


def suffix(value: object) -> str:
    """Take what follows the stem of a daily file's name."""
    ending = text(value)
    if not naming.FILE_SUFFIX.fullmatch(ending):
        raise wrong(
            "is not a file suffix",
            "write one to four words with a dot before each, such as .avro.pgp",
        )
    return ending


def memory(value: object) -> str:
    """Take an amount of memory."""
    amount = text(value)
    if not _MEMORY.fullmatch(amount):
        raise wrong("is not an amount of memory", "write a number and a unit, such as 512MB")
    return amount


def secret(value: object) -> SecretReference:
    """Take a reference to a secret; a literal secret is refused and not repeated."""
    if not isinstance(value, dict):
        raise wrong("holds the secret itself or nothing", f"keep it elsewhere: {SECRET_REMEDY}")
    if len(value) != 1:
        raise wrong("must refer to exactly one place", SECRET_REMEDY)
    word, name = next(iter(value.items()))
    kinds = {kind.value: kind for kind in SecretKind}
    if word not in kinds:
        near = suggestion(word, kinds)
        hint = f"did you mean `{near}`?" if near else SECRET_REMEDY
        raise wrong("does not say where the secret is kept", hint)
    return SecretReference(kind=kinds[word], name=_secret_name(kinds[word], name))


def _secret_name(kind: SecretKind, value: object) -> str:
    try:
        name = text(value)
    except PydanticCustomError:
        raise wrong(f"`{kind.value}` names nothing", SECRET_REMEDY) from None
    if kind is SecretKind.FILE:
        return file_path(name)
    grammar = _ENVIRONMENT if kind is SecretKind.ENVIRONMENT else _CREDENTIAL
    if not grammar.fullmatch(name):
        what = {
            SecretKind.ENVIRONMENT: ("an environment variable", "letters, digits and underscores"),
            SecretKind.CREDENTIAL: ("a credential", "letters, digits, dots, hyphens, underscores"),
        }[kind]
        raise wrong(f"`{kind.value}` is not the name of {what[0]}", f"use {what[1]} only")
    return name


def host_key(value: object) -> str:
    """Turn a pin, or a public key line as in known_hosts (sshd(8)), into `SHA256:` and base64."""
    line = text(value).strip()
    if line.startswith("SHA256:"):
        return _pin(line)
    if line.startswith("MD5:"):
        raise wrong("is an MD5 fingerprint", PIN_REMEDY)
    if line.startswith("@"):
        raise wrong("has a marker; authorities and revocations are not used here", PIN_REMEDY)
    words = line.split()
    place = 0 if words and _KEY_TYPE.fullmatch(words[0]) else 1
    if len(words) < place + 2 or not _KEY_TYPE.fullmatch(words[place]):
        raise wrong("is neither a SHA256 pin nor a public key line", PIN_REMEDY)
    return _pin_of(words[place], words[place + 1])


def _pin(line: str) -> str:
    try:
        digest = base64.b64decode(line.removeprefix("SHA256:").rstrip("=") + "=", validate=True)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise wrong("is not a whole SHA256 pin", PIN_REMEDY)
    return _written(digest)


def _written(digest: bytes) -> str:
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def _pin_of(key_type: str, encoded: str) -> str:
    if key_type == "ssh-dss" or "-cert-" in key_type:
        raise wrong("is a DSA key or a certificate, which are not accepted", PIN_REMEDY)
    try:
        blob = base64.b64decode(encoded, validate=True)
    except ValueError:
        blob = b""
    # RFC 4253, 6.6: the blob begins with the key type as a string
    if blob[4 : 4 + len(key_type)] != key_type.encode() or len(blob) < 32 + len(key_type):
        raise wrong("is a damaged public key line", PIN_REMEDY)
    return _written(hashlib.sha256(blob).digest())
