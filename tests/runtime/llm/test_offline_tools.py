"""The stand-in picks the tool and fills it, for tools it has never seen."""

from collections.abc import Callable
from typing import Any

import pytest

from app.llmgine.contracts import ChatMessage, ToolResult, ToolStatus
from runtime.llm import offline_cases as tools
from runtime.llm.offline_cases import SAMPLE, ask, calls, request, specs

Expected = list[tuple[str, dict[str, Any]]]


def note(text: str) -> Expected:
    return [("save_note", {"text": text})]


def found(query: str) -> Expected:
    return [("find_notes", {"query": query})]


def time_in(*zones: str) -> Expected:
    return [("current_time", {"timezone": zone}) for zone in zones]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("What time is it in Tokyo?", time_in("Asia/Tokyo")),
        ("what's the time in new york", time_in("America/New_York")),
        ("tell me what time it is in Sydney", time_in("Australia/Sydney")),
        ("What is the time in Europe/Paris", time_in("Europe/Paris")),
        ("time in san francisco?", time_in("America/Los_Angeles")),
        ("current time in utc", time_in("UTC")),
        ("What time is it in Tokyo and London?", time_in("Asia/Tokyo", "Europe/London")),
        ("Save a note: buy oat milk", note("buy oat milk")),
        (
            "Save a note: find the milk, and what time is it?",
            note("find the milk, and what time is it?"),
        ),
        ('save a note: "the time in Tokyo is late"', note("the time in Tokyo is late")),
        ("Save a note that Ann and Bob are coming", note("Ann and Bob are coming")),
        ("save a note that the milk is empty", note("the milk is empty")),
        ("Please save a note for me saying the milk is empty.", note("the milk is empty")),
        ("Can you save a note that I owe Bob 5 dollars?", note("I owe Bob 5 dollars")),
        ("remember that the milk is empty", note("the milk is empty")),
        ("remember to call Ann", note("call Ann")),
        ("write down that the key is under the mat", note("the key is under the mat")),
        ("make a note: dentist on Monday", note("dentist on Monday")),
        ("note that the text is wrong", note("the text is wrong")),
        ("The milk is empty, save a note of that", note("The milk is empty")),
        ('save a note "buy oat milk"', note("buy oat milk")),
        ("find notes about milk", found("milk")),
        ("Find my notes about the milk.", found("milk")),
        ("What notes do I have on milk?", found("milk")),
        ("do you have any notes about the dentist?", found("dentist")),
        ("Which notes mention Ann?", found("Ann")),
        ("look up milk in my notes", found("milk")),
        ("show me my notes about the car", found("car")),
        ("search my notes for garage", found("garage")),
    ],
)
async def test_the_sample_application_does_what_it_is_asked(
    prompt: str, expected: Expected
) -> None:
    response = await ask(prompt, *SAMPLE)

    assert calls(response) == expected


@pytest.mark.parametrize(
    ("function", "prompt", "arguments"),
    [
        (tools.weather, "What's the weather in Paris?", {"city": "Paris"}),
        (tools.weather, "weather in new york for 5 days", {"city": "new york", "days": 5}),
        (tools.weather, "the 3 day forecast for Oslo, please", {"city": "Oslo", "days": 3}),
        (tools.add, "add 2 and 3", {"a": 2, "b": 3}),
        (tools.add, "what is -5.5 plus 1,000?", {"a": -5.5, "b": 1000}),
        (tools.multiply, "what is three times twenty one?", {"a": 3, "b": 21}),
        (
            tools.convert,
            "convert 100 usd to EUR",
            {"amount": 100, "from_currency": "USD", "to_currency": "EUR"},
        ),
        (
            tools.convert,
            "convert to GBP 55.5 EUR",
            {"amount": 55.5, "from_currency": "EUR", "to_currency": "GBP"},
        ),
        (
            tools.send_email,
            "send an email to ann@example.com with subject Hello and body See you tomorrow",
            {"to": "ann@example.com", "subject": "Hello", "body": "See you tomorrow"},
        ),
        (
            tools.send_email,
            "Email bob@x.org about the party saying bring a cake",
            {"to": "bob@x.org", "subject": "the party", "body": "bring a cake"},
        ),
        (
            tools.create_event,
            "Create an event Team lunch tomorrow at 12:30",
            {"title": "Team lunch", "start": "2026-11-22T12:30:00+00:00"},
        ),
        (
            tools.create_event,
            "schedule dentist on 12 March 2026 at 9am",
            {"title": "dentist", "start": "2026-03-12T09:00:00+00:00"},
        ),
        (
            tools.create_event,
            "add an event 'Board meeting' next monday at 3 pm",
            {"title": "Board meeting", "start": "2026-11-23T15:00:00+00:00"},
        ),
        (tools.list_orders, "list my orders", {}),
        (tools.list_orders, "show me the last 5 Shipped orders", {"status": "shipped", "limit": 5}),
        (tools.list_orders, "which orders are in transit?", {"status": "in_transit"}),
        (tools.get_user, "who is user 7?", {"user_id": 7}),
        (tools.search_docs, "search the docs for async generators", {"query": "async generators"}),
        (
            tools.search_docs,
            "how do I configure logging? search the docs",
            {"query": "configure logging"},
        ),
        (tools.set_light, "turn off the kitchen light", {"on": False, "room": "kitchen"}),
        (
            tools.set_light,
            "switch the light on in the living room",
            {"on": True, "room": "living room"},
        ),
        (
            tools.translate,
            "translate good morning to French",
            {"text": "good morning", "target_language": "French"},
        ),
        (
            tools.translate,
            "translate 'where is the station' into Japanese",
            {"text": "where is the station", "target_language": "Japanese"},
        ),
        (tools.roll_dice, "roll the dice", {}),
        (tools.get_stock_price, "what is the stock price of AAPL?", {"symbol": "AAPL"}),
        (
            tools.book_table,
            "book a table for two at Chez Nous on 5 June at 8pm",
            {"restaurant": "Chez Nous", "people": 2, "day": "2027-06-05", "time": "20:00:00"},
        ),
        (
            tools.create_user,
            "create a user named Ann Smith with email ann@x.org, age 33",
            {"user": {"name": "Ann Smith", "email": "ann@x.org", "age": 33}},
        ),
        (
            tools.order_pizza,
            "order a large pizza with toppings ham, olives and cheese",
            {"size": "large", "toppings": ["ham", "olives", "cheese"]},
        ),
        (tools.sum_numbers, "sum 1, 2, 3.5 and 4", {"numbers": [1, 2, 3.5, 4]}),
        (tools.delete_note, "delete note abc-12", {"note_id": "abc-12"}),
        (tools.set_timer, "set a timer for 5 minutes", {"duration": "PT5M"}),
        (
            tools.move_file,
            "move a.txt to backup/a.txt",
            {"source": "a.txt", "destination": "backup/a.txt"},
        ),
        (
            tools.play_song,
            "play Imagine by John Lennon",
            {"title": "Imagine", "artist": "John Lennon"},
        ),
        (
            tools.create_task,
            "create a task: write the report by 2026-12-24 with priority high",
            {"title": "write the report", "due": "2026-12-24", "priority": "high"},
        ),
        (tools.create_task, "create task buy milk", {"title": "buy milk"}),
        (tools.calculate, "calculate 3 + 4", {"left": 3, "operator": "+", "right": 4}),
        (tools.get_order_status, "what is the status of order A-1001?", {"order_id": "A-1001"}),
        (
            tools.set_reminder,
            "remind me to buy milk at 18:00",
            {"text": "buy milk", "at": "2026-11-21T18:00:00+00:00"},
        ),
        (tools.fetch_page, "fetch https://example.com/a?b=1", {"url": "https://example.com/a?b=1"}),
        (tools.list_files, "what files are there?", {}),
        (
            tools.track_package,
            "where is my package RR123456789?",
            {"tracking_number": "RR123456789"},
        ),
        (
            tools.draw,
            "draw a figure: square with side 3",
            {"figure": {"shape": "square", "side": 3}},
        ),
        (tools.make_folder, "make a folder named Photos", {"folder": {"name": "Photos"}}),
    ],
)
async def test_a_tool_nobody_has_seen_is_called_with_what_the_prompt_says(
    function: Callable[..., Any], prompt: str, arguments: dict[str, Any]
) -> None:
    response = await ask(prompt, function)

    assert calls(response) == [(function.__name__, arguments)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (
            "What time is it in Tokyo and save a note that the milk is empty",
            time_in("Asia/Tokyo") + note("the milk is empty"),
        ),
        (
            "Hi! What time is it in Berlin? And remember that the car is at the garage",
            time_in("Europe/Berlin") + note("the car is at the garage"),
        ),
        (
            "Save a note: call Bob. Then find notes about milk",
            note("call Bob") + found("milk"),
        ),
        ("find notes about milk and find notes about milk", found("milk")),
        (
            "find notes about milk and tell me the time in Rome",
            found("milk") + time_in("Europe/Rome"),
        ),
        ('save a note "ask what time it is in Rome"', note("ask what time it is in Rome")),
    ],
)
async def test_every_request_of_a_prompt_becomes_a_call(prompt: str, expected: Expected) -> None:
    response = await ask(prompt, *SAMPLE)

    assert calls(response) == expected


async def test_values_in_a_list_become_calls_of_their_own() -> None:
    response = await ask("weather in Berlin, Madrid and Rome", tools.weather)

    assert [arguments["city"] for _, arguments in calls(response)] == ["Berlin", "Madrid", "Rome"]


@pytest.mark.parametrize(
    "prompt",
    [
        "hello",
        "Hello, how are you?",
        "what is the meaning of life?",
        "Write a poem about the sea",
        "tell me a joke",
        "Have a good time!",
        "I remember when I was young",
        "Do you remember me?",
        "who are you?",
        "thanks a lot",
        "help",
        "make me a sandwich",
        "remove the sofa",
        "",
        "?!",
    ],
)
async def test_what_fits_no_tool_calls_none_and_is_told_what_answers_here(prompt: str) -> None:
    response = await ask(prompt, *tools.EVERY_TOOL)

    assert response.tool_calls == ()
    assert "no language model" in response.text
    assert "LLMGINE_MODEL=openai/<name>" in response.text
    assert "OPENAI_API_KEY" in response.text
    assert "--model" in response.text


async def test_a_missing_argument_is_named_with_its_tool() -> None:
    response = await ask("What time is it?", *SAMPLE)

    assert response.tool_calls == ()
    assert "current_time" in response.text
    assert "timezone (an IANA name such as Europe/Berlin or Asia/Tokyo)" in response.text


async def test_a_request_that_lacks_something_is_not_forgotten_beside_one_that_does_not() -> None:
    asked = request("Find notes about milk. What time is it?", *specs(*SAMPLE))
    first = await tools.offline().complete(asked)
    result = ToolResult(
        call_id=first.tool_calls[0].id, name="find_notes", status=ToolStatus.OK, content="[]"
    )
    messages = (*asked.messages, first.message, ChatMessage.tool(result))

    second = await tools.offline().complete(asked.model_copy(update={"messages": messages}))

    assert calls(first) == found("milk")
    assert second.text.startswith("Nothing found.\nI would call current_time")


async def test_the_next_message_may_supply_what_was_missing() -> None:
    asked = request("What time is it?", *specs(*SAMPLE))
    messages = (
        *asked.messages,
        ChatMessage.assistant("I would call current_time, but ..."),
        ChatMessage.user("In Oslo"),
    )

    response = await tools.offline().complete(asked.model_copy(update={"messages": messages}))

    assert calls(response) == time_in("Europe/Oslo")


@pytest.mark.parametrize("function", tools.EVERY_TOOL, ids=lambda function: function.__name__)
async def test_the_example_that_is_offered_works(function: Callable[..., Any]) -> None:
    offer = (await ask("hello", function)).text

    if 'Try: "' not in offer:
        # Nobody can guess what matches a pattern.
        assert function is tools.track_package
        return
    example = offer.partition('Try: "')[2].partition('"\n')[0]
    assert [name for name, _ in calls(await ask(example, function))][:1] == [function.__name__]


async def test_no_tool_is_called_when_the_caller_forbids_it() -> None:
    response = await ask("What time is it in Tokyo?", *SAMPLE, tool_choice="none")

    assert response.tool_calls == ()
    assert "not to call a tool" in response.text


async def test_a_tool_is_called_when_the_caller_insists() -> None:
    response = await ask("the milk is empty", tools.save_note, tool_choice="required")

    assert calls(response) == note("the milk is empty")


async def test_a_tool_that_is_spelled_out_is_called() -> None:
    response = await ask("use roll_dice", tools.roll_dice, tools.list_files)

    assert calls(response) == [("roll_dice", {})]
