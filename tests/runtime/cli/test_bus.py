"""`bus`: what the application's bus handles, seen in a terminal and as documents."""

import json

import pytest

from app.llmgine.bus import MessageBus
from app.llmgine.interfaces.cli.bus import table_lines
from app.llmgine.interfaces.cli.render import cells
from app.llmgine.messages import Command, Event

from .conftest import APP, Run


class Translate(Command[str]):
    text: str


class Translated(Event):
    text: str


async def translate(command: Translate) -> str:
    return command.text


async def note(event: Translated) -> None: ...


async def audit(event: Event) -> None: ...


async def keep(events: list[Translated]) -> None: ...


async def around(message, envelope, call_next):
    return await call_next()


def a_bus() -> MessageBus:
    bus = MessageBus(middleware=[around])
    bus.register_command_handler(Translate, translate, middleware=[around])
    bus.register_event_handler(Translated, note, where=lambda event: True, overflow="reject")
    bus.register_batch_handler(Translated, keep, size=5, within_s=0.5, capacity=2_000)
    bus.register_event_handler(Event, audit)
    return bus


async def test_the_table_has_a_line_for_each_handler_without_their_common_package() -> None:
    async with a_bus() as bus:
        lines = [" ".join(line.split()) for line in table_lines(bus.describe(), 120)]

    assert lines == [
        "Commands",
        "Translate → str translate · around",
        "",
        "Events",
        "Translated note · 16 at once · reject at 10,000 · some of them",
        "Translated keep · in batches of 5 within 0.5 s · wait at 2,000",
        "Event audit · 16 at once · wait at 10,000",
        "",
        "Around every handler: around",
    ]


async def test_the_table_tells_what_was_handled() -> None:
    bus = a_bus()
    async with bus:
        await bus.execute(Translate(text="x"))

    line = next(line for line in table_lines(bus.describe(), 200) if "Translate →" in line)

    assert "1 handled, 0 failed" in line


def test_of_two_messages_with_the_same_name_both_are_in_the_table() -> None:
    def again() -> type[Event]:
        class Translated(Event): ...

        return Translated

    bus = a_bus()
    bus.register_event_handler(again(), audit)

    table = table_lines(bus.describe(), 400)

    first, *rest = (line.split()[0] for line in table if "Translated" in line)
    assert first == f"{__name__}.Translated"
    assert rest[-1].endswith("again.Translated")


@pytest.mark.parametrize("width", [20, 21, 40, 80])
async def test_lines_fit_the_window(width: int) -> None:
    async with a_bus() as bus:
        lines = table_lines(bus.describe(), width)

    assert all(cells(line) <= width for line in lines)


def test_an_empty_bus_says_where_to_register() -> None:
    assert table_lines(MessageBus().describe(), 80) == [
        "Nothing is registered. Register handlers in bootstrap.py."
    ]


def test_the_command_prints_the_table(invoke: Run) -> None:
    done = invoke("bus")

    assert done.stdout.splitlines()[0] == "Commands"
    assert "PromptCommand → " in done.stdout
    assert done.returncode == 0


def test_the_command_prints_a_graph(invoke: Run) -> None:
    done = invoke("bus", "--mermaid")

    assert done.stdout.splitlines()[0] == "flowchart LR"
    assert "LLMEngine.prompt" in done.stdout


def test_the_command_prints_an_asyncapi_document_of_the_application(invoke: Run) -> None:
    document = json.loads(invoke("bus", "--asyncapi").stdout)

    assert document["asyncapi"] == "3.0.0"
    assert document["info"]["title"] == "sample"
    assert "PromptCommand" in document["channels"]


def test_the_command_prints_json(invoke: Run) -> None:
    data = json.loads(invoke("bus", "--json").stdout)

    assert data["state"] == "running"
    assert "PromptCommand" in [one["message"] for one in data["handlers"]]


def test_one_form_at_a_time(invoke: Run) -> None:
    done = invoke("bus", "--json", "--mermaid")

    assert done.returncode == 2
    assert done.stdout == ""
    assert "at a time" in done.stderr


def test_the_bus_is_shown_without_a_key(run: Run) -> None:
    done = run("bus", app=APP, env={"LLMGINE_MODEL": "openai/gpt-5.1"})

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Commands")
