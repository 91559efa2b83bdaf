"""Versions compare as the packaging standard says, as far as we need it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from app.llmgine.interfaces.cli.project import parse_requirement, release, satisfies

NUMBERS = st.lists(st.integers(0, 3), min_size=1, max_size=3).map(
    lambda parts: ".".join(map(str, parts))
)
CLAUSES = st.one_of(
    st.tuples(st.sampled_from([">=", "<=", "<", ">", "==", "!="]), NUMBERS).map("".join),
    NUMBERS.map(lambda number: f"~={number}.1"),
    NUMBERS.map(lambda number: f"=={number}.*"),
)


@given(NUMBERS, st.lists(CLAUSES, max_size=3).map(",".join))
def test_ranges_agree_with_the_packaging_library(version: str, wanted: str) -> None:
    assert satisfies(version, wanted) == (Version(version) in SpecifierSet(wanted))


def test_a_prerelease_counts_as_the_release_it_leads_to() -> None:
    assert release("v1.2.3rc1") == (1, 2, 3)
    assert release("main") is None


def test_a_requirement_is_taken_apart() -> None:
    found = parse_requirement('My_Agent[runtime, otlp] >=1.2,<2 ; python_version < "3.12"')

    assert found is not None
    assert found.name == "my-agent"
    assert found.extras == {"runtime", "otlp"}
    assert found.versions == ">=1.2,<2"
    assert found.marker == 'python_version < "3.12"'


@pytest.mark.parametrize("line", ["", "  ", "not a requirement at all"])
def test_what_is_no_requirement_is_none(line: str) -> None:
    assert parse_requirement(line) is None


def test_an_address_is_not_taken_for_a_version() -> None:
    found = parse_requirement("thing @ https://example.org/thing-1.0.whl")

    assert found is not None
    assert (found.name, found.versions) == ("thing", "")
