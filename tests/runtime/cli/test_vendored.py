"""The manifest tells an edited runtime from an untouched one."""

from pathlib import Path

import pytest

from app.llmgine.interfaces.cli.project import changes, manifest


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    folder = tmp_path / "llmgine"
    (folder / "bus").mkdir(parents=True)
    (folder / "__init__.py").write_text("one\ntwo\n")
    (folder / "bus" / "lane.py").write_text("lane\n")
    (folder / "MANIFEST").write_text(manifest(folder))
    return folder


def test_an_untouched_folder_has_no_changes(runtime: Path) -> None:
    assert not changes(runtime)


def test_an_edited_file_is_named(runtime: Path) -> None:
    (runtime / "bus" / "lane.py").write_text("mine\n")

    assert changes(runtime).edited == ("bus/lane.py",)


def test_a_deleted_file_is_named(runtime: Path) -> None:
    (runtime / "bus" / "lane.py").unlink()

    assert changes(runtime).missing == ("bus/lane.py",)


def test_an_added_file_is_named(runtime: Path) -> None:
    (runtime / "bus" / "mine.py").write_text("")

    assert changes(runtime).added == ("bus/mine.py",)


def test_windows_line_ends_are_no_edit(runtime: Path) -> None:
    (runtime / "__init__.py").write_bytes(b"one\r\ntwo\r\n")

    assert not changes(runtime)


def test_what_python_leaves_behind_is_no_addition(runtime: Path) -> None:
    (runtime / "__pycache__").mkdir()
    (runtime / "__pycache__" / "x.pyc").write_bytes(b"")

    assert not changes(runtime)


def test_a_manifest_does_not_depend_on_the_order_of_the_disk(runtime: Path) -> None:
    paths = [line.split("  ")[1] for line in manifest(runtime).splitlines()]

    assert paths == sorted(paths) == ["__init__.py", "bus/lane.py"]


def test_a_broken_manifest_is_an_error(runtime: Path) -> None:
    (runtime / "MANIFEST").write_text("nonsense\n")

    with pytest.raises(ValueError, match="unpack"):
        changes(runtime)
