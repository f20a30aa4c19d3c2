"""docs/guarantees.md has each invariant and each fault once, and the tests it names exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([IF][0-9]+a?) \| (.*) \|$", PAGE, re.MULTILINE)
TEST = re.compile(r"`(tests/[^`]*)`")


@cache
def functions_of(file: str) -> frozenset[str]:
    path = ROOT / file
    if not path.is_file():
        return frozenset()
    found = ast.parse(path.read_text(encoding="utf-8")).body
    return frozenset(one.name for one in found if isinstance(one, ast.FunctionDef))


def test_each_invariant_and_each_fault_has_one_row_in_order():
    faults = [f"F{number}" for number in range(1, 129)]
    faults.insert(faults.index("F23"), "F23a")
    assert [name for name, _ in ROWS] == [f"I{number}" for number in range(1, 19)] + faults


def test_each_row_names_tests_that_exist_or_says_that_it_does_not_apply():
    wrong = []
    for name, row in ROWS:
        named = TEST.findall(row)
        if not named and "does not apply" not in row.lower():
            wrong.append(f"{name} names no test")
        for one in named:
            file, _, function = one.partition("::")
            if function not in functions_of(file):
                wrong.append(f"{name}: there is no {one}")
    assert not wrong, "\n".join(wrong)


def test_a_test_that_is_not_there_would_be_noticed():
    assert "test_each_invariant_and_each_fault_has_one_row_in_order" in functions_of(
        "tests/test_guarantees.py"
    )
    assert "test_nothing_of_the_kind" not in functions_of("tests/test_guarantees.py")
    assert functions_of("tests/test_nowhere.py") == frozenset()


def test_the_readme_leads_to_the_page():
    assert "docs/guarantees.md" in (ROOT / "README.md").read_text(encoding="utf-8")
