"""Tools of many kinds, as an application might register them, and a way to ask for them."""

import inspect
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.llmgine.contracts import ChatMessage, LLMRequest, LLMResponse, ToolSpec
from app.llmgine.llm.providers.offline import OfflineProvider
from app.llmgine.tools import ToolManager

# A Saturday.
NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)


def offline() -> OfflineProvider:
    return OfflineProvider(clock=lambda: NOW)


def specs(*functions: Callable[..., Any]) -> tuple[ToolSpec, ...]:
    manager = ToolManager()
    return tuple(manager.register(function) for function in functions)


def request(prompt: str, *tools: ToolSpec, **options: Any) -> LLMRequest:
    return LLMRequest(model="offline", messages=(ChatMessage.user(prompt),), tools=tools, **options)


async def ask(prompt: str, *functions: Callable[..., Any], **options: Any) -> LLMResponse:
    return await offline().complete(request(prompt, *specs(*functions), **options))


def calls(response: LLMResponse) -> list[tuple[str, dict[str, Any]]]:
    return [(call.name, json.loads(call.arguments)) for call in response.tool_calls]


# The application the template renders.


def current_time(timezone: str) -> str:
    """The current date and time in a time zone.

    Args:
        timezone: an IANA name such as Europe/Berlin or Asia/Tokyo.
    """
    return timezone


def save_note(text: str) -> str:
    """Save a note for later.

    Args:
        text: what to remember, in the user's own words.
    """
    return text


def find_notes(query: str) -> list[str]:
    """Find the saved notes about something.

    Args:
        query: words that the notes must hold.
    """
    return [query]


SAMPLE = (current_time, save_note, find_notes)

# Applications that nobody wrote.


def weather(city: str, days: int = 1) -> None:
    """The weather forecast for a city."""


def add(a: float, b: float) -> None:
    """Add two numbers."""


def multiply(a: float, b: float) -> None:
    """Multiply two numbers."""


Currency = Literal["EUR", "USD", "GBP"]


def convert(amount: float, from_currency: Currency, to_currency: Currency) -> None:
    """Convert money between currencies."""


def send_email(to: str, subject: str, body: str) -> None:
    """Send an email."""


def create_event(title: str, start: datetime) -> None:
    """Create an event in the calendar."""


class Status(StrEnum):
    OPEN = "open"
    SHIPPED = "shipped"
    IN_TRANSIT = "in_transit"
    CANCELLED = "cancelled"


def list_orders(status: Status | None = None, limit: int = 10) -> None:
    """List the orders of the customer."""


def get_user(user_id: int) -> None:
    """Get a user by id."""


def search_docs(query: str) -> None:
    """Search the documentation."""


def set_light(on: bool, room: str) -> None:
    """Switch the light in a room on or off."""


def translate(text: str, target_language: str) -> None:
    """Translate a text."""


def roll_dice() -> None:
    """Roll a pair of dice."""


def get_stock_price(symbol: str) -> None:
    """The latest price of a stock."""


def book_table(
    restaurant: str, people: Annotated[int, Field(ge=1, le=20)], day: date, time: str
) -> None:
    """Book a table at a restaurant."""


class User(BaseModel):
    name: str
    email: str
    age: int | None = None


def create_user(user: User) -> None:
    """Create a user account."""


def order_pizza(size: Literal["small", "medium", "large"], toppings: list[str]) -> None:
    """Order a pizza."""


def sum_numbers(numbers: list[float]) -> None:
    """Sum a list of numbers."""


def delete_note(note_id: str) -> None:
    """Delete a note."""


def set_timer(duration: timedelta) -> None:
    """Set a timer."""


def move_file(source: str, destination: str) -> None:
    """Move a file to another place."""


def play_song(title: str, artist: str | None = None) -> None:
    """Play a song."""


def create_task(
    title: str, due: date | None = None, priority: Literal["low", "normal", "high"] = "normal"
) -> None:
    """Create a task."""


def calculate(left: float, operator: Literal["+", "-", "*", "/"], right: float) -> None:
    """Calculate."""


def get_order_status(order_id: str) -> None:
    """The status of an order."""


def set_reminder(text: str, at: datetime) -> None:
    """Set a reminder."""


def fetch_page(url: str) -> None:
    """Fetch a web page."""


def list_files() -> None:
    """List the files."""


def track_package(
    tracking_number: Annotated[str, Field(pattern=r"^[A-Z]{2}[0-9]{9}$")],
) -> None:
    """Where a package is."""


class Circle(BaseModel):
    shape: Literal["circle"]
    radius: float


class Square(BaseModel):
    shape: Literal["square"]
    side: float


def draw(figure: Annotated[Circle | Square, Field(discriminator="shape")]) -> None:
    """Draw a figure."""


class Folder(BaseModel):
    name: str
    parent: "Folder | None" = None


def make_folder(folder: Folder) -> None:
    """Make a folder."""


EVERY_TOOL = tuple(
    function
    for function in list(globals().values())
    if inspect.isfunction(function)
    and function.__module__ == __name__
    and function not in (offline, specs, request, ask, calls)
)
