"""YAML as it is read here: what becomes more than text, what is refused, and where it stood."""

import pytest
import yaml

from mxdeliver.core.errors import ConfigInvalid
from mxdeliver.edge.config import document, load

LOADERS = [yaml.SafeLoader, yaml.CSafeLoader]


@pytest.fixture(params=LOADERS, ids=["pure", "libyaml"])
def compose(request, monkeypatch, tmp_path):
    monkeypatch.setattr(document, "type_of_loader", request.param)
    return lambda text: document.compose(text, tmp_path / "file.yaml")


def plain(compose, text):
    node, problems = compose(text)
    assert problems == []
    return node.plain()


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("null", None),
        ("", None),
        ("true", True),
        ("false", False),
        ("0", 0),
        ("8022", 8022),
        ("-7", -7),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("True", "True"),
        ("NULL", "NULL"),
        ("~", "~"),
        ("022", "022"),
        ("0x10", "0x10"),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("+5", "+5"),
        ("-0", "-0"),
        ("1e3", "1e3"),
        ("1.5", "1.5"),
        (".inf", ".inf"),
        ("01:15", "01:15"),
        ("1:15", "1:15"),
        ("2026-01-01", "2026-01-01"),
        ("2026-01-01 00:00:00", "2026-01-01 00:00:00"),
        ("1" * 40, "1" * 40),
        ("1" * 5000, "1" * 5000),
        ("'8022'", "8022"),
        ('"true"', "true"),
        ("'null'", "null"),
        ("''", ""),
        ("=", "="),
        ("<<", "<<"),
    ],
)
def test_only_null_true_false_and_plain_whole_numbers_are_more_than_text(compose, written, value):
    found = plain(compose, f"key: {written}\n")["key"]
    assert found == value
    assert type(found) is type(value)


def test_keys_are_text_whatever_they_look_like(compose):
    assert plain(compose, "{no: 1, 22: 2, true: 3, null: 4}") == {
        "no": 1, "22": 2, "true": 3, "null": 4,
    }  # fmt: skip


def test_a_byte_order_mark_and_crlf_are_taken_for_what_they_are(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: b\r\nc: d\r\n")
    node, problems = document.read(path)
    assert problems == []
    assert node.plain() == {"a": "b", "c": "d"}
    assert node.at("c").line == 2


def test_lines_are_those_of_keys_and_items(compose):
    node, _ = compose("# comment\na:\n  b:\n    - c: 1\n    - d:\n        - x\n  e: >\n    f\n")
    lines = [node.at(*steps).line for steps in [("a",), ("a", "b"), ("a", "b", 0), ("a", "e")]]
    assert lines == [2, 3, 4, 7]
    assert node.at("a", "b", 1, "d", 0).line == 6


def test_a_way_down_stops_where_the_file_does(compose):
    node, _ = compose("a:\n  b: {c: 1}\n")
    assert node.at("a", "x", "y").line == 1
    assert node.at("a", "b", 0, "c").value == 1, "a single mapping stands for a list of one"
    assert node.at("a", "b", "c", "d").value == 1
    assert node.at(0, "a", 5, "b").mapping.keys() == {"c"}


def test_every_duplicate_is_told_with_the_line_of_the_first(compose):
    _, problems = compose("a: 1\nb: {c: 1, c: 2}\na: 2\n")
    assert [(problem.line, problem.path) for problem in problems] == [(2, "b.c"), (3, "a")]
    assert problems[1].problem == "is given twice, first on line 1"


@pytest.mark.parametrize(
    ("text", "line", "path", "problem"),
    [
        ("a: !!python/object:os.system x\n", 1, "a", "has a YAML tag"),
        ("a:\n  - !secret x\n", 2, "a[0]", "has a YAML tag"),
        ("a: !!str 1\n", 1, "a", "has a YAML tag"),
        ("a: ! 1\n", 1, "a", "has a YAML tag"),
        ("!!str a: 1\n", 1, "", "a key that is not plain text"),
        ("[a, b]: 1\n", 1, "", "a key that is not plain text"),
        ("a:\n  ? {x: 1}\n  : 2\n", 2, "a", "a key that is not plain text"),
        ("a: *gone\n", 1, "a", "an anchor that does not exist"),
        ("a: &x [*x]\n", 1, "a[0]", "an anchor that does not exist"),
        ("a: 1\n---\nb: 2\n", 2, "", "a second document begins"),
        ("a: b\n\tc: d\n", 2, "", "a tab stands where only spaces may"),
        ("a: 'b\n", 2, "", "is not YAML"),
        ("a: [b\n", 2, "", "is not YAML"),
        ("a: b: c\n", 1, "", "is not YAML"),
        ("a: b\nc\n", None, "", "is not YAML"),
        ("a:\n    b: 1\n  c: 2\n", 3, "", "is not YAML"),
        ("a: %b\n", 1, "", "is not YAML"),
        ("a: \x07\n", None, "", "does not allow"),
        ("", None, "", "is empty"),
        ("# only\n", None, "", "is empty"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_its_line(compose, text, line, path, problem):
    _, problems = compose(text)
    assert problems
    assert any(
        problem in found.problem
        and found.path == path
        and (line is None or found.line == line)
        and found.remedy
        for found in problems
    ), problems


def test_what_is_not_utf8_is_told_with_its_line(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_bytes(b"a: b\nc: \xe9\n")
    node, (problem,) = document.read(path)
    assert node is None
    assert (problem.line, problem.problem) == (2, "is not UTF-8")


def test_a_file_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(document, "_SIZE_LIMIT", 10)
    path = tmp_path / "file.yaml"
    path.write_text("a: bcdefghi\n")
    node, (problem,) = document.read(path)
    assert node is None
    assert "larger" in problem.problem


def test_aliases_repeat_what_their_anchor_holds(compose):
    node, problems = compose("a: &x {b: 1}\nc: *x\nd:\n  - *x\n")
    assert problems == []
    assert node.plain() == {"a": {"b": 1}, "c": {"b": 1}, "d": [{"b": 1}]}
    assert node.at("c").line == 2


def test_aliases_that_multiply_are_refused_at_once(compose):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    node, (problem,) = compose("\n".join(lines))
    assert node is None
    assert "multiply" in problem.problem
    assert problem.line <= 6


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 5000, "- " * 5000, "[" * 100 + "]" * 100])
def test_depth_is_bounded(compose, text):
    node, problems = compose(text)
    assert node is None
    assert problems


def test_the_wider_meaning_of_a_merge_key_is_not_given(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("version: 1\nx: &x {a: 1}\nclients:\n  - <<: *x\n")
    with pytest.raises(ConfigInvalid) as caught:
        load(path)
    assert any(found.path == "clients[0].…" for found in caught.value.problems)
