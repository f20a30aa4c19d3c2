"""Error codes explained: at the terminal and on a page, in the same words."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from mxdeliver.cli import explain
from mxdeliver.core.errors import Kind, all_errors

PAGE = Path(__file__).parents[1] / "docs/errors.md"
ERRORS = list(all_errors())


def explained(*arguments):
    return CliRunner().invoke(explain.command, arguments)


def test_the_page_is_what_explain_all_prints():
    assert PAGE.read_text(encoding="utf-8") == explained("--all").output, (
        "write it anew: mxdeliver explain --all > docs/errors.md"
    )


def test_the_page_has_one_section_for_each_code_in_the_order_of_the_catalogue():
    headings = [line[3:] for line in PAGE.read_text().splitlines() if line.startswith("## ")]
    assert headings == [error.code for error in ERRORS]
    assert len(set(headings)) == len(headings) > 40


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_each_code_is_explained_by_cause_what_is_done_and_what_to_do(error):
    result = explained(error.code)
    assert result.exit_code == 0
    code, cause, done, remedy = result.output.strip().split("\n\n")
    assert code == error.code
    assert cause.endswith(".")
    assert len(cause) > 20
    assert done == f"What mxdeliver does: {error.what_is_done()}"
    assert remedy == f"What to do: {error.remedy}"
    assert len(error.remedy) > 15
    page = PAGE.read_text()
    assert all(part in page for part in (cause, done, remedy))


def test_what_the_program_does_differs_between_kinds():
    assert len({kind.value for kind in Kind}) == len(Kind)
    assert "parked" in explained("AUTH_FAILED").output
    assert "tried again" in explained("CONNECT_TIMEOUT").output


@pytest.mark.parametrize(
    ("code", "true", "false"),
    [
        ("STOPPED", "the next run goes on", "another process"),
        ("REMOTE_VERIFY", "tried once more", "deadline"),
        ("SPOOL_MODE", "stops before anything", "has failed"),
        ("LEDGER_MISSING", "stops before anything", "has failed"),
        ("AUTH_FAILED", "opens days within `catch_up_days` alone", "noticed by itself."),
    ],
)
def test_where_a_kinds_sentence_would_not_be_true_the_code_has_its_own(code, true, false):
    explanation = explained(code).output
    assert true in explanation
    assert false not in explanation


@pytest.mark.parametrize("code", ["RECORD_INVALID", "REMOTE_CONFLICT"])
def test_what_is_mended_outside_is_opened_by_resume(code):
    assert "then `mxdeliver resume`" in explained(code).output


def test_all_codes_are_asked_for_by_an_option():
    result = explained("all")
    assert result.exit_code == 2
    assert "`mxdeliver explain --all`" in result.output


def test_a_code_may_be_written_in_small_letters_and_with_hyphens():
    assert explained("key-expired").output == explained("KEY_EXPIRED").output


@pytest.mark.parametrize(
    ("code", "near"), [("KEY_EXPIRD", "KEY_EXPIRED"), ("hostkey", "HOSTKEY_MISMATCH")]
)
def test_an_unknown_code_is_wrong_usage_and_near_ones_are_suggested(code, near):
    result = explained(code)
    assert result.exit_code == 2
    assert near in result.output


def test_a_code_like_no_other_leads_to_the_list():
    result = explained("zzz")
    assert result.exit_code == 2
    assert "`mxdeliver explain` lists all codes" in result.output


def test_without_a_code_all_of_them_are_listed():
    lines = explained().output.splitlines()
    assert [line.split()[0] for line in lines] == [error.code for error in ERRORS]
