"""`doctor`: what is wrong with this installation, each line with the fix."""

import asyncio
import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from app.llmgine.application import Application
from app.llmgine.delivery.journal import Entry, State
from app.llmgine.delivery.sqlite import SQLiteJournal
from app.llmgine.errors import BusStartError
from app.llmgine.interfaces.cli.doctor import (
    check_application,
    check_clock,
    check_disk,
    check_folder,
)
from app.llmgine.interfaces.cli.entry import Entry as CommandEntry
from app.llmgine.interfaces.cli.project import (
    Check,
    Project,
    check_dependencies,
    check_python,
    find_project,
    version_line,
)
from app.llmgine.messages import Command
from app.llmgine.settings import RuntimeSettings

from .conftest import APP, HERE, TESTS, Run
from .crew import application as crew

CREW = ("-m", "crew")
PATH = {"PYTHONPATH": f"{TESTS}:{HERE}"}
ECHO = {"LLMGINE_MODEL": "echo"}


def status_of(lines: str, name: str) -> str:
    """The status of the check, as the lines of the command say."""
    (line,) = [line for line in lines.splitlines() if line[6:].startswith(f"{name}: ")]
    return line.split()[0]


def project_with(
    folder: Path, *dependencies: str, extras: str = "", python: str = ">=3.11"
) -> Project:
    (folder / "src" / "my_agent").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "my-agent"\nversion = "1.2.3"\nrequires-python = "{python}"\n'
        f"dependencies = {json.dumps(dependencies)}\n[project.optional-dependencies]\n{extras}"
    )
    return Project(package="my_agent", folder=folder / "src" / "my_agent", root=folder)


def installed_with(folder: Path, metadata: Sequence[str]) -> Project:
    """A project that is only there as an installed distribution."""
    info = folder / "my_agent-1.2.3.dist-info"
    info.mkdir()
    header = ["Metadata-Version: 2.4", "Name: my-agent", "Version: 1.2.3"]
    (info / "METADATA").write_text("\n".join([*header, *metadata]) + "\n")
    (info / "top_level.txt").write_text("my_agent\n")
    return Project(package="my_agent", folder=folder / "my_agent", root=None)


def test_a_good_installation_has_no_failed_check(invoke: Run) -> None:
    done = invoke("doctor", env=ECHO)

    assert done.returncode == 0
    assert {line.split()[0] for line in done.stdout.splitlines()} <= {"ok", "warn"}
    for name in ("python", "settings", "keys", "disk", "clock", "log folder", "data folder"):
        assert status_of(done.stdout, name) == "ok"
    assert status_of(done.stdout, "model") == "ok"
    assert status_of(done.stdout, "store") == "ok"
    assert "WAL" in done.stdout
    assert "Traceback" not in done.stderr


def test_json_has_one_object_for_each_check(invoke: Run) -> None:
    done = invoke("doctor", "--json", env=ECHO)

    checks = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"name", "status", "found", "fix"} == set.union(*(set(check) for check in checks))
    assert "python" in {check["name"] for check in checks}


def test_a_key_is_named_and_never_printed(invoke: Run, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ANTHROPIC_API_KEY=canary-in-file\n")

    done = invoke("doctor", env={**ECHO, "OPENAI_API_KEY": "sk-canary-in-environment"})

    assert "ANTHROPIC_API_KEY" in done.stdout
    assert "OPENAI_API_KEY" in done.stdout
    assert "canary" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("model", "said"),
    [("nonsense", "nonsense"), ("openai/gpt-5.1", "OPENAI_API_KEY")],
)
def test_a_model_that_cannot_be_called_is_a_failure(run: Run, model: str, said: str) -> None:
    done = run("doctor", app=APP, env={"LLMGINE_MODEL": model})

    assert done.returncode == 1
    assert status_of(done.stdout, "model") == "fail"
    assert said in done.stdout
    assert status_of(done.stdout, "store") == "ok"


def test_a_name_whose_models_cannot_be_used_is_told_before_anybody_chooses_it(invoke: Run) -> None:
    done = invoke("doctor", env={**ECHO, "LLMGINE_MODELS": '{"fast": ["opnai/x"]}'})

    assert done.returncode == 0
    assert status_of(done.stdout, "models") == "warn"
    assert "opnai/x" in done.stdout


def test_wrong_settings_are_a_failure_and_the_rest_is_checked(invoke: Run) -> None:
    done = invoke("doctor", env={"LLMGINE_MAX_STEPS": "many"})

    assert done.returncode == 1
    assert status_of(done.stdout, "settings") == "fail"
    assert status_of(done.stdout, "python") == "ok"


@pytest.mark.parametrize(("folder", "name"), [("logs", "log folder"), ("data", "data folder")])
def test_a_folder_that_cannot_be_written_is_a_failure(
    invoke: Run, tmp_path: Path, folder: str, name: str
) -> None:
    (tmp_path / folder).write_text("")

    done = invoke("doctor", env=ECHO)

    assert done.returncode == 1
    assert status_of(done.stdout, name) == "fail"
    assert "LLMGINE_" in done.stdout


def test_a_damaged_store_is_a_failure_and_stays_as_it_is(invoke: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "app.db").write_bytes(b"no database at all" * 100)

    done = invoke("doctor", env=ECHO)

    assert done.returncode == 1
    assert status_of(done.stdout, "store") == "fail"
    assert (tmp_path / "data" / "app.db").read_bytes() == b"no database at all" * 100


def test_a_bug_in_the_wiring_comes_after_the_other_checks(invoke: Run) -> None:
    done = invoke("doctor", env={**ECHO, "BROKEN_BOOTSTRAP": "1"})

    assert done.returncode == 1
    assert status_of(done.stdout, "disk") == "ok"
    assert "error: unexpected KeyError" in done.stderr


def test_the_store_is_left_usable(invoke: Run, tmp_path: Path) -> None:
    invoke("doctor", env=ECHO)

    with closing(sqlite3.connect(tmp_path / "data" / "app.db")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_dependencies_that_are_there_and_in_range_are_ok(tmp_path: Path) -> None:
    project = project_with(
        tmp_path, "my-agent[runtime]", extras='runtime = ["typer>=0.1", "Pydantic_Settings<99"]\n'
    )

    assert check_dependencies(project) == Check("dependencies", "ok", "2 present and in range")


@pytest.mark.parametrize(
    ("requirement", "found"),
    [
        ("no-such-thing>=1", "no-such-thing is missing"),
        ("typer>=99", "is not >=99"),
        ("typer!=0.29.*,<0.1", "is not !=0.29.*,<0.1"),
    ],
)
def test_dependencies_that_do_not_fit_are_a_failure(
    tmp_path: Path, requirement: str, found: str
) -> None:
    check = check_dependencies(project_with(tmp_path, requirement))

    assert check.status == "fail"
    assert found in check.found
    assert check.fix == "uv sync"


def test_an_extra_that_nobody_chose_need_not_be_there(tmp_path: Path) -> None:
    project = project_with(
        tmp_path, "my-agent[runtime]", extras='runtime = ["typer"]\nother = ["no-such-thing"]\n'
    )

    assert check_dependencies(project).status == "ok"


def test_what_a_marker_may_leave_out_need_not_be_there(tmp_path: Path) -> None:
    project = project_with(tmp_path, "typer", "no-such-thing ; sys_platform == 'plan9'")

    assert check_dependencies(project).status == "ok"


def test_what_the_runtime_needs_must_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "broken_thing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-thing\nVersion: 1.0\n")
    (info / "top_level.txt").write_text("broken_thing\n")
    (tmp_path / "broken_thing.py").write_text("import no_such_module_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    project = project_with(
        tmp_path / "my-agent", "my-agent[runtime]", extras='runtime = ["broken-thing"]\n'
    )

    check = check_dependencies(project)

    assert check.status == "fail"
    assert "broken-thing cannot be imported" in check.found


def test_an_installed_project_is_known_by_its_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = installed_with(
        tmp_path,
        [
            "Requires-Python: >=3.11",
            "Requires-Dist: my-agent[runtime]",
            "Requires-Dist: typer>=0.1 ; extra == 'runtime'",
            "Requires-Dist: no-such-thing ; extra == 'other'",
            'Requires-Dist: win-thing ; (sys_platform == "win32") and extra == "runtime"',
        ],
    )
    monkeypatch.syspath_prepend(tmp_path)

    assert project.version == "1.2.3"
    assert check_python(project).status == "ok"
    assert project.requirements == {
        "": ["my-agent[runtime]"],
        "runtime": ["typer>=0.1", 'win-thing ; sys_platform == "win32"'],
        "other": ["no-such-thing"],
    }
    assert check_dependencies(project).status == "ok"


def test_an_old_python_is_a_failure(tmp_path: Path) -> None:
    check = check_python(project_with(tmp_path, python=">=3.99"))

    assert check.status == "fail"
    assert check.fix


def test_a_pyproject_with_conflict_markers_does_not_stop_the_doctor(tmp_path: Path) -> None:
    project = project_with(tmp_path)
    (tmp_path / "pyproject.toml").write_text("<<<<<<< before\n[project]\n")

    assert check_python(project).status == "ok"
    assert check_dependencies(project).status == "warn"
    assert "Python" in version_line("my-agent", project)


def test_the_version_line_names_the_template(tmp_path: Path) -> None:
    project = project_with(tmp_path)
    (tmp_path / ".copier-answers.yml").write_text("# no\n_commit: v0.4.0\n_src_path: gh:a/b\n")

    assert version_line("my-agent", project).startswith("my-agent 1.2.3 (template v0.4.0, Python ")


def test_the_project_is_found_from_where_the_runtime_lies() -> None:
    project = find_project()

    assert project.package == "app"
    assert (project.runtime / "errors.py").is_file()


def test_a_folder_is_made_where_there_is_none(tmp_path: Path) -> None:
    check = check_folder("log folder", tmp_path / "a" / "b", "LLMGINE_LOG_DIR")

    assert check.status == "ok"
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)

    assert check_folder("log folder", tmp_path / "closed", "LLMGINE_LOG_DIR").status == "fail"


def test_a_clock_in_the_past_is_a_warning() -> None:
    assert check_clock(0.0).status == "warn"
    assert check_clock(4e9).status == "ok"


def test_a_disk_with_room_is_ok_also_for_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert check_disk(tmp_path / "not" / "there").status == "ok"


def keep(folder: Path, *states: State) -> None:
    async def keep() -> None:
        journal = SQLiteJournal(folder / "data" / "app.db")
        await journal.open()
        for state in states:
            entry = Entry(id=state, route="command Hold", name="Hold", payload="{}", created_ns=1)
            await journal.append([replace(entry, state=state)])
        await journal.aclose()

    asyncio.run(keep())


def test_an_application_with_a_journal_has_it_checked(run: Run) -> None:
    done = run("doctor", app=CREW, env=PATH)

    assert status_of(done.stdout, "journal") == "ok"
    assert status_of(done.stdout, "transport") == "ok"
    assert status_of(done.stdout, "queue") == "ok"


def test_a_damaged_journal_is_a_failure_and_the_rest_is_checked(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "app.db").write_bytes(b"no database at all" * 100)

    done = run("doctor", app=CREW, env=PATH)

    assert done.returncode == 1
    assert status_of(done.stdout, "journal") == "fail"
    assert status_of(done.stdout, "transport") == "ok"
    assert "queue: " not in done.stdout


def test_what_failed_for_good_is_a_warning_with_the_commands(run: Run, tmp_path: Path) -> None:
    keep(tmp_path, "dead", "parked")

    done = run("doctor", app=CREW, env=PATH)

    assert status_of(done.stdout, "queue") == "warn"
    assert "1 dead, 1 parked" in done.stdout
    assert "crew queue list --state dead" in done.stdout
    assert "crew queue retry --all" in done.stdout


def test_what_waits_and_nobody_handles_is_a_warning(run: Run, tmp_path: Path) -> None:
    keep(tmp_path, "ready")

    handled = run("doctor", app=CREW, env=PATH)
    removed = run("doctor", app=CREW, env={**PATH, "CREW_WITHOUT_HOLD": "1"})

    assert status_of(handled.stdout, "queue") == "ok"
    assert status_of(removed.stdout, "queue") == "warn"
    assert "command Hold" in removed.stdout


class Misfit(Command[None]): ...


async def needs_two(command: Misfit, *, missing: str) -> None: ...


async def test_what_the_checks_opened_is_closed_also_if_the_application_cannot_start(
    tmp_path: Path, logging_restored: None
) -> None:
    def bootstrap(settings: RuntimeSettings) -> Application:
        app = crew.bootstrap(settings)
        app.bus.register_command_handler(Misfit, needs_two)
        return app

    entry = CommandEntry("crew", RuntimeSettings.load, bootstrap)
    settings = RuntimeSettings(data_dir=tmp_path, log_dir=tmp_path)
    with pytest.raises(BusStartError, match="needs_two"):
        async for _ in check_application(entry, settings):
            pass

    # SQLite removes it when the last connection is closed.
    assert not (tmp_path / "app.db-wal").exists()
