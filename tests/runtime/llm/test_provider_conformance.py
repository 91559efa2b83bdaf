"""Every provider keeps every promise of the table in docs/models.md, whole and streamed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.llm.conformance.cases import Case
from runtime.llm.conformance.subjects import Kind, subject_of
from runtime.llm.conformance.table import CASES, KINDS, NOTES, note, page

PAGE = Path(__file__).parents[3] / "docs" / "models.md"


def promises() -> Iterator[object]:
    for kind in KINDS:
        for case in CASES:
            found = note(kind, case)
            if not case.applies_to(kind) or (found and not found.differs):
                continue
            # A difference that is gone must leave the table.
            differs = [pytest.mark.xfail(reason=found.text, strict=True)] if found else []
            marks = [*kind.marks, *differs]
            yield pytest.param(kind, case, id=f"{kind.name}-{case.name}", marks=marks)


@pytest.mark.parametrize(("kind", "case"), [*promises()])
async def test_a_provider_keeps_a_promise(kind: Kind, case: Case, tmp_path: Path) -> None:
    async with subject_of(kind, tmp_path) as subject:
        await case.run(subject)


def test_the_page_shows_the_table() -> None:
    assert page() in PAGE.read_text()


def test_every_note_is_about_something() -> None:
    for found in NOTES:
        assert set(found.columns) <= {kind.column for kind in KINDS}
        assert set(found.cases) <= {case.name for case in CASES}
