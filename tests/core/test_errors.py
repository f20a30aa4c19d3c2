import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxdeliver.core import errors
from mxdeliver.core.errors import Kind

ERRORS = list(errors.all_errors())


def test_codes_are_unique():
    codes = [error.code for error in ERRORS]
    assert len(codes) == len(set(codes))
    assert len(codes) > 50


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_each_code_has_a_cause_and_a_remedy(error):
    assert re.fullmatch(r"[A-Z][A-Z0-9_]+", error.code)
    assert vars(error)["__doc__"].strip().endswith(".")
    assert error.remedy.strip().endswith((".", "`"))
    assert error.kind is not None


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_an_error_explains_itself_and_what_to_do(error):
    raised = error("the server stopped")
    assert raised.explain() == f"the server stopped. {error.remedy}"
    assert raised.retryable == (raised.kind in {Kind.TRANSIENT, Kind.SLOW})


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_an_error_is_the_same_behind_the_border_of_a_process(error):
    raised = error("First Union, users CREATED: the server stopped")
    raised.add_note("noted")
    again = pickle.loads(pickle.dumps(raised))
    assert (type(again), again.code, again.explain()) == (error, raised.code, raised.explain())
    assert (again.args, vars(again)) == (raised.args, vars(raised))


def test_a_configuration_errors_problems_and_a_bugs_place_cross_that_border_too():
    problem = errors.Problem(file="c.yaml", line=1, path="a", problem="is wrong", remedy="mend it")
    again = pickle.loads(pickle.dumps(errors.ConfigInvalid("wrong", problems=(problem,))))
    assert (str(again), again.problems) == ("wrong", (problem,))
    bug = errors.Internal.of(ValueError("a record's value"))
    assert str(pickle.loads(pickle.dumps(bug))) == "unexpected ValueError"
    assert b"a record's value" not in pickle.dumps(bug)


def test_an_error_without_a_remedy_is_its_message():
    assert errors.MxdeliverError("odd").explain() == "odd"


def test_every_error_class_with_a_code_is_in_the_catalogue():
    written = {
        item.code
        for item in vars(errors).values()
        if isinstance(item, type)
        and issubclass(item, errors.MxdeliverError)
        and "code" in vars(item)
    }
    assert {error.code for error in ERRORS} | {"INTERNAL"} == written


def test_the_kinds_of_wait_and_halt_are_distinct_sentences():
    assert len({kind.value for kind in Kind}) == len(Kind)
    assert all(kind.value.endswith(".") for kind in Kind)


def test_a_configuration_problem_says_where_and_what_to_do():
    facts = {
        "path": "clients[0].sftp.port",
        "problem": "22 is refused",
        "remedy": "ask for another",
    }
    assert (
        str(errors.Problem(file="config.yaml", line=7, **facts))
        == "config.yaml:7: clients[0].sftp.port: 22 is refused, ask for another"
    )
    facts["path"] = ""
    assert (
        str(errors.Problem(file="config.yaml", line=None, **facts))
        == "config.yaml: 22 is refused, ask for another"
    )
    problem = errors.Problem(file="config.yaml", line=1, **facts)
    assert errors.ConfigInvalid("wrong", problems=(problem,)).problems == (problem,)


@given(st.binary() | st.text(), st.integers(0, 300))
def test_a_peers_words_are_short_and_harmless(words, limit):
    shown = errors.peer_text(words, limit)
    assert len(shown) <= limit
    assert shown == "" or shown.isprintable()


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("Zürich 🙂", "Zürich 🙂"),
        (b"caf\xc3\xa9", "café"),
        ("red\x1b[31m", "red\\x1b[31m"),
        ("two\r\nlines", "two\\r\\nlines"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("right\u202eleft", "right\\u202eleft"),
        ("\udc80", "\\udc80"),
    ],
)
def test_what_could_move_the_cursor_is_escaped(words, shown):
    assert errors.peer_text(words) == shown


def test_a_peers_long_words_are_cut():
    assert errors.peer_text("x" * 1_000_000) == "x" * 200
    assert errors.peer_text(b"\n" * 1_000_000, 5) == "\\n\\n\\"


def test_a_bug_is_named_by_its_place_and_not_by_what_it_says():
    with pytest.raises(KeyError) as raised:
        {}["a record's value"]
    internal = errors.Internal.of(raised.value)
    assert re.fullmatch(r"unexpected KeyError at test_errors\.py:\d+", str(internal))
    assert internal.__cause__ is raised.value
    assert str(errors.Internal.of(ValueError("a record's value"))) == "unexpected ValueError"
