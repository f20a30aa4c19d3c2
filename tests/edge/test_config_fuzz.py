"""Whatever a file holds, loading it gives a configuration or ConfigInvalid, in bounded time."""

import json
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mxdeliver.core.errors import ConfigInvalid
from mxdeliver.edge.config import document, load, sample
from tests.support.fuzzing import examples

SAMPLE = sample()
LINES = SAMPLE.splitlines(keepends=True)
ODD = st.sampled_from(
    ["", "null", "~", "[]", "{}", "[[]]", "{a: {b: c}}", "!x y", "*a", "&a b", "- ", "? ", ": ",
     "'", '"', "\t", "%", "@", "|", "<<: 1", "-1", "9" * 400, "\ufeff", "\x85", "\u2028", "é", "~/",
     "../..", "::/0", "1.2.3.4/33", "fe80::1%x", "SHA256:", "ssh-rsa A", "\ud800".encode(
         "utf-8", "surrogatepass").decode("latin-1")]
)  # fmt: skip


def outcome(data):
    """Load `data` as a file; give the problems, wherever they stop what they concern."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_bytes(data)
        try:
            configuration = load(path)
        except ConfigInvalid as error:
            return error.problems
        assert configuration.clients or configuration.broken
        assert all(broken.problems for broken in configuration.broken)
        return [problem for broken in configuration.broken for problem in broken.problems]


def check(problems, data):
    """Every problem has its words and a line that the file has."""
    lines = data.count(b"\n") + data.count(b"\r") + data.count("\u2028".encode()) + 2
    lines += data.count("\x85".encode()) + data.count("\u2029".encode())
    for problem in problems:
        assert problem.problem
        assert problem.remedy
        assert problem.line is None or 1 <= problem.line <= lines
        assert "\n" not in str(problem)


@examples(80)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_told_apart_from_a_configuration(data):
    problems = outcome(data)
    assert problems
    check(problems, data)


@examples(80)
@given(
    place=st.integers(0, len(LINES) - 1),
    how=st.sampled_from(["drop", "value", "twice", "indent", "cut", "insert"]),
    odd=ODD,
)
@example(place=9, how="value", odd="null")
def test_a_sample_with_one_line_changed_is_told_or_accepted(place, how, odd):
    lines = list(LINES)
    line = lines[place]
    key, colon, _ = line.partition(":")
    lines[place] = {
        "drop": "",
        "value": f"{key}{colon} {odd}\n",
        "twice": line + line,
        "indent": f"  {line}",
        "cut": line[: len(line) // 2],
        "insert": f"{line}{odd}\n",
    }[how]
    data = "".join(lines).encode()
    check(outcome(data), data)


KEYS = st.sampled_from(
    ["version", "sources", "clients", "defaults", "include", "sftp", "pgp", "guid", "host_keys",
     "allowed_ips", "resources", "queries", "type", "retry", "files", "codec", "password", "env",
     "pin", "schedule", "ledger", "url", "name", "timezone", "x"]
)  # fmt: skip
SCALARS = st.one_of(
    st.sampled_from(["null", "true", "1", "0", "22", "duckdb", "adbc", "standard", "UTC", "''"]),
    st.integers().map(str),
)


def flow(children):
    mappings = st.dictionaries(KEYS, children, max_size=5).map(
        lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"
    )
    lists = st.lists(children, max_size=3).map(lambda items: "[" + ", ".join(items) + "]")
    return mappings | lists


@examples(80)
@given(
    st.dictionaries(KEYS, st.recursive(SCALARS, flow, max_leaves=25), max_size=6).map(
        lambda items: "".join(f"{key}: {value}\n" for key, value in items.items())
    )
)
@example("clients: [{sftp: {host_keys: [{pin: [x]}], port: {}}, pgp: [[]], files: null}]\n")
@example("clients: [{files: {codec: null}}, 1, null, [x]]\ndefaults: {files: 1, sftp: [1]}\n")
@example("sources: {x: [1], y: {type: {a: b}}, z: {type: null}}\ninclude: {a: b}\n")
def test_known_keys_in_any_arrangement_are_told_or_accepted(text):
    check(outcome(text.encode()), text.encode())


@examples(80)
@given(st.text(max_size=60))
def test_both_parsers_agree_on_what_is_plain(text):
    from yaml import CSafeLoader, SafeLoader  # noqa: PLC0415 - used here alone

    found = []
    for loader in (SafeLoader, CSafeLoader):
        before, document.type_of_loader = document.type_of_loader, loader
        try:
            node, problems = document.compose(f"key: |\n  {text!a}\n", Path("x"))
        finally:
            document.type_of_loader = before
        found.append((node and node.plain(), problems))
    assert found[0] == found[1]


SECRET = "Cobalt-Rhinoceros-59"
REFERENCE = "password: {env: FIRST_EXAMPLE_SFTP_PASSWORD}"


@pytest.mark.parametrize(
    "written",
    [
        f"password: {SECRET}",
        f"password:{SECRET}",
        f'password: "{SECRET}"',
        f"password: '{SECRET}",
        f'password: {{env: "{SECRET}\\q"}}',
        f"password: [{SECRET}]",
        f"password: {{value: {SECRET}}}",
        f"password: {{env: [{SECRET}]}}",
        f"password: {{env: {SECRET}: x}}",
        f"password: {{env: '{SECRET} x'}}",
        f"password: {{credential: '{SECRET}/x'}}",
        f"password: {{env: X, file: {SECRET}}}",
        f"password: {{file: '~/{SECRET}'}}",
        f"password: {SECRET}: {SECRET}",
        f"password: |\n        {SECRET}",
        f"password: >{SECRET}",
        *(f"password: {sign}{SECRET} x" for sign in "*&!%@`"),
        f"{REFERENCE}\n      passphrase: {SECRET}",
        f"{REFERENCE}\n      private_key: {SECRET}",
        f"{REFERENCE}\n      passwort: {SECRET}",
        f"{REFERENCE}\n      host: sftp://mx:{SECRET}@client.test",
    ],
)
def test_a_secret_written_into_the_file_itself_is_refused_and_never_repeated(written):
    text = SAMPLE.replace(REFERENCE, written)
    assert text != SAMPLE
    problems = outcome(text.encode())
    assert problems
    assert not [problem for problem in problems if SECRET.lower() in str(problem).lower()]


@pytest.mark.parametrize(
    "written", [f"postgresql://mx:{SECRET}@h/d", f"{{url: 'postgresql://mx:{SECRET}@h/d'}}"]
)
def test_a_database_url_written_into_the_file_itself_is_never_repeated(written):
    problems = outcome(SAMPLE.replace("ledger: sqlite", f"ledger: {written}").encode())
    assert problems
    assert not [problem for problem in problems if SECRET in str(problem)]


# -- names that end up in file names, tables and logs (reliability.md F121) ------------------------

GUID = "CLT-0858efd1-2d2e-6a5d-f2b5-c7dad42ef184"
HOSTILE = [
    "../", "/", "\0", "\n", "=cmd", "+", "@", "\t", "\r", "%s", "\u202e", "\u0421\u0141\u0422",
    "\uff11", "\u0661", "\u00e9", "\x1b[2J", " ", "'", '"', ";", "$(id)", "\ud7ff", "A", "Z", "-",
]  # fmt: skip


def with_value(key, value):
    """Write the sample with the first value of `key` replaced by any text at all."""
    text, count = re.subn(
        rf"^( *(?:- )?{key}: ).*$",
        lambda match: match[1] + json.dumps(value),
        SAMPLE,
        count=1,
        flags=re.MULTILINE,
    )
    assert count == 1
    return text.encode()


@examples(80)
@given(at=st.integers(0, len(GUID)), odd=st.sampled_from(HOSTILE), lost=st.integers(0, 6))
@example(at=0, odd="\uff23\uff2c\uff34", lost=3)
@example(at=len(GUID), odd="\n", lost=0)
def test_only_a_guid_of_the_grammar_is_taken(at, odd, lost):
    guid = GUID[:at] + odd + GUID[at + lost :]
    problems = outcome(with_value("guid", guid))
    accepted = re.fullmatch(r"[A-Z]{3}-[0-9a-f-]{36}", guid, re.ASCII) is not None
    assert accepted is not any(problem.path.endswith("guid") for problem in problems)
    check(problems, b"\n" * 500)


@examples(60)
@given(st.sampled_from(HOSTILE), st.sampled_from(["users", ""]), st.sampled_from([*HOSTILE, ""]))
def test_no_resource_and_no_suffix_with_such_signs_is_taken(one, word, other):
    name = one + word + other
    assert outcome(with_value("resources", [name]))
    assert outcome(with_value("suffix", name))
