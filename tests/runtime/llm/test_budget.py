"""The budget: what it refuses, and that neither rush nor restart nor crash gets around it."""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from app.llmgine.application import default_budget
from app.llmgine.context import SQLiteStore
from app.llmgine.contracts import ChatMessage, LLMRequest, Money, Usage
from app.llmgine.delivery import SQLiteJournal
from app.llmgine.errors import BudgetError, LLMErrorKind, StoreError
from app.llmgine.llm import _ledger
from app.llmgine.llm.budget import FLUSH_S, Budget, Cap, Ledger, usd_text
from app.llmgine.llm.prices import Price, PriceFile, PriceTable, estimated_usage
from app.llmgine.settings import RuntimeSettings
from app.llmgine.testing import FakeClock
from app.llmgine.testing.clock import FakeTimer

# A token costs a dollar, so that tokens and USD can be read off each other.
DOLLAR = Price(input=Decimal(1_000_000), output=Decimal(1_000_000))
PRICES = PriceTable(PriceFile(prices={"m/x": DOLLAR}))
TEXT = ChatMessage.user("Hello")
INPUT_TOKENS = estimated_usage(LLMRequest(model="x", messages=(TEXT,))).input_tokens
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def call(tokens: int = 100, **fields: object) -> LLMRequest:
    """One that is estimated at so many tokens, the input's included."""
    output = tokens - INPUT_TOKENS
    return LLMRequest.model_validate(
        {"model": "x", "messages": (TEXT,), "max_output_tokens": output, **fields}
    )


def took(tokens: int) -> Usage:
    return Usage(input_tokens=0, output_tokens=tokens)


def usd(amount: int | str) -> Cap:
    return Cap(usd=Decimal(amount))


MakeLedger = Callable[..., Ledger]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON)


@pytest.fixture
async def ledger(tmp_path: Path, clock: FakeClock) -> AsyncIterator[MakeLedger]:
    """Makes ledgers on one file, closed in the end."""
    made: list[Ledger] = []

    def make(*, path: Path | None = tmp_path / "app.db", **caps: Cap) -> Ledger:
        made.append(Ledger(path, Budget(**caps), PRICES, clock))
        return made[-1]

    yield make
    for one in made:
        await one.aclose()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """While another writes to the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.mark.parametrize(
    ("caps", "scope", "told"),
    [
        ({"call": usd(99)}, "call", "one call does"),
        ({"session": usd(150)}, "session", "session 's1' does"),
        ({"user": usd(150)}, "user", "user 'u1' on 2026-05-04 (UTC) does"),
        ({"day": usd(150)}, "day", "budget of 2026-05-04 (UTC) does"),
        ({"call": Cap(tokens=99)}, "call", "LLMGINE_BUDGET_CALL_TOKENS"),
        ({"session": Cap(tokens=150)}, "session", "LLMGINE_BUDGET_SESSION_TOKENS"),
        ({"user": Cap(tokens=150)}, "user", "LLMGINE_BUDGET_USER_TOKENS"),
        ({"day": Cap(tokens=150)}, "day", "LLMGINE_BUDGET_DAY_TOKENS"),
    ],
)
async def test_a_call_that_could_pass_a_cap_is_refused_and_told_which(
    ledger: MakeLedger, caps: dict[str, Cap], scope: str, told: str
) -> None:
    book = ledger(**caps)
    with pytest.raises(BudgetError) as raised:
        for _ in range(2):
            await book.reserve("m/x", call(100, conversation_id="s1", user_id="u1"))

    assert (raised.value.scope, raised.value.kind) == (scope, LLMErrorKind.BUDGET)
    assert told in str(raised.value)
    assert raised.value.model == "m/x"


async def test_the_refusal_says_the_cap_what_is_spent_what_is_reserved_and_what_to_do(
    ledger: MakeLedger,
) -> None:
    book = ledger(day=usd("250.5"))
    await book.settle(await book.reserve("m/x", call(100)), took(70), None)
    await book.reserve("m/x", call(120))

    with pytest.raises(BudgetError) as raised:
        await book.reserve("m/x", call(100))

    assert str(raised.value) == (
        "The budget of 2026-05-04 (UTC) does not allow this call of m/x: the cap is 250.50 USD, "
        "70.00 USD are spent, 120.00 USD reserved by open calls, and it may take 100.00 USD. "
        "Raise LLMGINE_BUDGET_DAY_USD, or lower the request's max_output_tokens."
    )


async def test_what_a_call_did_not_take_is_there_for_the_next(ledger: MakeLedger) -> None:
    book = ledger(day=usd(100))
    first = await book.reserve("m/x", call(100))
    await book.settle(first, took(10), None)
    second = await book.reserve("m/x", call(90))
    await book.release(second)

    await book.reserve("m/x", call(90))

    found = await book.balance("day")
    assert (found.spent_usd, found.reserved_usd) == (Decimal(10), Decimal(90))
    assert (found.calls, found.open_calls) == (1, 1)


async def test_sessions_and_users_do_not_share_their_caps(ledger: MakeLedger) -> None:
    book = ledger(session=usd(100), user=usd(100))
    for number in range(3):
        await book.reserve("m/x", call(100, conversation_id=f"s{number}", user_id=f"u{number}"))

    with pytest.raises(BudgetError):
        await book.reserve("m/x", call(100, conversation_id="s4", user_id="u1"))


async def test_a_price_that_nobody_knows_is_refused_by_a_cap_in_usd_and_not_by_one_in_tokens(
    ledger: MakeLedger,
) -> None:
    for scope in ("call", "session", "user", "day"):
        request = call(100, conversation_id="s", user_id="u")
        with pytest.raises(BudgetError, match=r'm/new is not known.*prices\."m/new"') as raised:
            await ledger(**{scope: usd(10_000)}).reserve("m/new", request)
        assert raised.value.scope == scope

    book = ledger(day=Cap(tokens=100))
    await book.settle(await book.reserve("m/new", call(100)), took(60), None)

    found = await book.balance("day")
    assert (found.spent_usd, found.spent_tokens, found.unpriced) == (Decimal(0), 60, 1)


async def test_what_is_free_goes_on_when_the_money_is_gone(ledger: MakeLedger) -> None:
    book = ledger(day=usd(100))
    await book.settle(await book.reserve("m/x", call(100)), took(101), None)

    await book.reserve("offline/offline", call(100))


async def test_the_providers_own_cost_wins_over_the_table(ledger: MakeLedger) -> None:
    book = ledger(day=usd(100))
    place = await book.reserve("m/x", call(100))

    await book.settle(place, took(10), Money(amount=Decimal("0.5")))

    assert (await book.balance("day")).spent_usd == Decimal("0.5")


async def test_a_call_of_unknown_usage_counts_as_its_estimate_and_says_so(
    ledger: MakeLedger,
) -> None:
    book = ledger(day=usd(200))
    await book.settle(await book.reserve("m/x", call(80)), None, None)
    await book.settle(await book.reserve("m/x", call(80)), took(5), None, estimated=True)
    await book.settle(await book.reserve("m/x", call(80)), took(3), None)

    found = await book.balance("day")

    assert (found.spent_usd, found.estimated_usd) == (Decimal(88), Decimal(85))


async def test_a_cost_that_the_provider_told_is_no_estimate(ledger: MakeLedger) -> None:
    book = ledger(day=usd(1_000))
    await book.settle(await book.reserve("m/x", call(100)), None, Money(amount=Decimal(7)))

    balance = await book.balance("day")

    assert (balance.spent_usd, balance.estimated_usd) == (Decimal(7), Decimal(0))


async def test_a_call_is_booked_once_however_often_it_is_settled(ledger: MakeLedger) -> None:
    for caps in ({}, {"day": usd(100)}):
        book = ledger(path=None, **caps)
        place = await book.reserve("m/x", call(100))
        for _ in range(2):
            await book.settle(place, took(10), None)
            await book.release(place)

        found = await book.balance("day")
        assert (found.calls, found.spent_usd, found.reserved_usd) == (1, Decimal(10), Decimal(0))


async def test_a_restart_forgets_nothing(ledger: MakeLedger) -> None:
    before = ledger(day=usd(100))
    await before.settle(await before.reserve("m/x", call(60)), took(60), None)
    await before.aclose()

    with pytest.raises(BudgetError, match=r"60\.00 USD are spent"):
        await ledger(day=usd(100)).reserve("m/x", call(60))


async def test_a_day_ends_at_midnight_utc_and_a_session_does_not(
    ledger: MakeLedger, clock: FakeClock
) -> None:
    book = ledger(session=usd(150), user=usd(100), day=usd(100))
    late = await book.reserve("m/x", call(100, conversation_id="s", user_id="u"))
    clock.jump(timedelta(hours=12))
    await book.settle(late, took(100), None)

    place = await book.reserve("m/x", call(50, conversation_id="s", user_id="u"))

    assert (await book.balance("day")).reserved_usd == Decimal(50)
    assert (await book.balance("day")).spent_usd == Decimal(0)
    assert (await book.balance("session", "s")).spent_usd == Decimal(100)
    await book.release(place)
    with pytest.raises(BudgetError, match="session 's'"):
        await book.reserve("m/x", call(51, conversation_id="s", user_id="u"))


async def test_what_is_old_is_forgotten(ledger: MakeLedger, clock: FakeClock) -> None:
    book = ledger(session=usd(100))
    await book.settle(await book.reserve("m/x", call(100, conversation_id="s")), took(100), None)
    clock.jump(timedelta(days=_ledger.KEPT_DAYS))
    assert (await book.balance("session", "s")).spent_usd == Decimal(100)

    clock.jump(timedelta(days=1))

    assert (await book.balance("session", "s")).spent_usd == Decimal(0)


async def test_without_caps_calls_are_kept_too_but_written_a_second_later(
    ledger: MakeLedger, clock: FakeClock, tmp_path: Path
) -> None:
    book, reader = ledger(), ledger()
    place = await book.reserve("m/new", call(100, conversation_id="s"))
    await book.settle(place, took(100), Money(amount=Decimal(7)))
    assert not (tmp_path / "app.db").exists()

    await clock.advance(FLUSH_S)
    await book.balance("day")

    assert (await reader.balance("session", "s")).spent_usd == Decimal(7)
    assert clock.timers == 0


async def test_what_is_not_written_yet_is_seen_and_is_written_at_the_end(
    ledger: MakeLedger,
) -> None:
    book, reader = ledger(), ledger()
    await book.settle(await book.reserve("m/x", call(100)), took(1), None)
    assert (await book.balance("day")).calls == 1
    await book.settle(await book.reserve("m/x", call(100)), took(1), None)
    await book.aclose()

    assert (await reader.balance("day")).calls == 2


class MortalClock(FakeClock):
    """Its timers end with their event loop, as the system's do."""

    def call_at(self, when: float, callback: Callable[[], object]) -> FakeTimer:
        loop = asyncio.get_running_loop()
        return super().call_at(when, lambda: None if loop.is_closed() else callback())


def test_what_was_spent_is_written_also_in_the_next_event_loop(tmp_path: Path) -> None:
    clock = MortalClock(NOON)
    book, reader = (Ledger(tmp_path / "app.db", prices=PRICES, clock=clock) for _ in range(2))

    async def spend() -> None:
        await book.settle(await book.reserve("m/x", call(100)), took(1), None)

    async def spend_and_wait() -> None:
        await clock.advance(FLUSH_S)
        await spend()
        await clock.advance(FLUSH_S)
        async with asyncio.timeout(5):
            while (await reader.balance("day")).calls < 2:
                pass  # The book writes in a thread of its own.
        await reader.aclose()
        await book.aclose()

    asyncio.run(spend())
    asyncio.run(spend_and_wait())


async def test_the_ledger_lists_who_spent_most_today(ledger: MakeLedger, clock: FakeClock) -> None:
    book = ledger()
    for day in range(2):
        for number in range(1, 8):
            request = call(100, conversation_id=f"s{number}", user_id=f"u{number % 2}")
            await book.settle(await book.reserve("m/x", request), took(number + day), None)
        clock.jump(timedelta(days=1 - day))

    found = await book.balances(top=3)

    assert found.day == (NOON + timedelta(days=1)).date()
    assert found.total.spent_usd == Decimal(sum(range(2, 9)))
    assert [one.key for one in found.sessions] == ["s7", "s6", "s5"]
    # A session over all its days, as its cap is.
    assert found.sessions[0].spent_usd == Decimal(7 + 8)
    assert [(one.key, one.spent_usd) for one in found.users] == [("u1", 20), ("u0", 15)]
    assert [(one.key, one.calls) for one in found.models] == [("m/x", 7)]


async def test_a_name_that_is_no_text_is_kept_all_the_same(ledger: MakeLedger) -> None:
    book = ledger(session=usd(100))
    await book.reserve("m/x", call(100, conversation_id="\udcff"))

    assert (await book.balance("session", "\udcff")).open_calls == 1


@pytest.mark.parametrize("caps", [{}, {"day": Cap(tokens=10**18)}])
async def test_an_absurd_usage_does_not_break_the_ledger(
    ledger: MakeLedger, caps: dict[str, Cap]
) -> None:
    book = ledger(**caps)
    for _ in range(3):
        place = await book.reserve("m/x", call(100))
        await book.settle(place, took(10**30), Money(amount=Decimal("1e999999")))

    balance = await book.balance("day")
    assert (balance.calls, balance.open_calls) == (3, 0)


async def test_a_reservation_whose_caller_was_cancelled_is_given_back(
    ledger: MakeLedger, tmp_path: Path
) -> None:
    book = ledger(day=usd(100))
    await book.balance("day")
    with locked(tmp_path / "app.db"):
        reserving = asyncio.create_task(book.reserve("m/x", call(100)))
        await asyncio.sleep(0)
        reserving.cancel()
        await asyncio.wait([reserving])

    assert (await book.balance("day")).open_calls == 0
    assert reserving.cancelled()


class ThreadsClock(FakeClock):
    """Tells when another thread than the event loop's asks for the time."""

    def __init__(self) -> None:
        super().__init__(NOON)
        self.asked = threading.Event()

    def now(self) -> datetime:
        if threading.current_thread() is not threading.main_thread():
            self.asked.set()
        return super().now()


async def test_a_cancelled_reservation_is_given_back_also_when_the_ledger_closes_at_once(
    ledger: MakeLedger, tmp_path: Path
) -> None:
    clock = ThreadsClock()
    book = Ledger(tmp_path / "app.db", Budget(day=usd(100)), PRICES, clock)
    await book.balance("day")
    clock.asked.clear()
    with locked(tmp_path / "app.db"):
        reserving = asyncio.create_task(book.reserve("m/x", call(100)))
        assert await asyncio.to_thread(clock.asked.wait, 5)
        reserving.cancel()
        await asyncio.wait([reserving])
        closing_book = asyncio.create_task(book.aclose())
        await asyncio.sleep(0)
    await closing_book

    assert (await ledger().balance("day")).open_calls == 0


async def test_closing_closes_also_a_file_that_is_just_being_opened(
    ledger: MakeLedger, tmp_path: Path
) -> None:
    before, book = ledger(), ledger()
    await before.balance("day")
    with locked(tmp_path / "app.db"):
        reading = asyncio.create_task(book.balance("day"))
        await asyncio.sleep(0)
        closing_book = asyncio.create_task(book.aclose())
        await asyncio.sleep(0)
    await asyncio.wait([reading, closing_book])
    await before.aclose()

    # SQLite removes it when the last connection is closed.
    assert not (tmp_path / "app.db-wal").exists()


async def test_settling_goes_on_when_its_caller_is_cancelled(ledger: MakeLedger) -> None:
    book = ledger(day=usd(100))
    place = await book.reserve("m/x", call(100))
    settling = asyncio.create_task(book.settle(place, took(5), None))
    await asyncio.sleep(0)

    settling.cancel()
    await asyncio.wait([settling])

    found = await book.balance("day")
    assert (found.spent_usd, found.open_calls) == (Decimal(5), 0)


async def test_a_file_that_fails_refuses_calls_but_no_answers(
    ledger: MakeLedger, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    book = ledger(day=usd(100))
    place = await book.reserve("m/x", call(50))
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as other:
        other.execute("ALTER TABLE llm_spent RENAME TO elsewhere")

    with caplog.at_level(logging.WARNING):
        await book.settle(place, took(5), None)

    assert "The reservation stays, and counts as spent." in caplog.text
    with pytest.raises(StoreError, match=r"budget ledger .*app\.db failed"):
        await book.reserve("m/x", call(50))


async def test_spending_that_could_not_be_written_is_written_later(
    ledger: MakeLedger, clock: FakeClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    book = ledger()
    await book.balance("day")
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as other:
        other.execute("ALTER TABLE llm_spent RENAME TO elsewhere")
    await book.settle(await book.reserve("m/x", call(50)), took(5), None)
    await clock.advance(FLUSH_S)
    for _ in range(2):
        with pytest.raises(StoreError):
            await book.balance("day")
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as other:
        other.execute("ALTER TABLE elsewhere RENAME TO llm_spent")

    assert (await book.balance("day")).spent_usd == Decimal(5)
    assert "What was spent is written later." in caplog.text


async def test_a_file_that_is_not_ours_is_left_alone(ledger: MakeLedger, tmp_path: Path) -> None:
    (tmp_path / "app.db").write_bytes(b"not a database" * 100)

    with pytest.raises(StoreError, match="is not a SQLite database"):
        await ledger(day=usd(1_000)).reserve("m/x", call())

    assert (tmp_path / "app.db").read_bytes() == b"not a database" * 100


async def test_a_file_of_a_newer_version_is_left_alone(ledger: MakeLedger, tmp_path: Path) -> None:
    await ledger().balance("day")
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as other:
        other.execute("UPDATE llm_meta SET version = 99")

    with pytest.raises(StoreError, match="version 99; this application knows version 1"):
        await ledger(day=usd(1_000)).reserve("m/x", call())


async def test_the_file_is_shared_with_conversations_and_the_journal(
    ledger: MakeLedger, tmp_path: Path
) -> None:
    path = tmp_path / "app.db"
    store, journal, book = SQLiteStore(path), SQLiteJournal(path), ledger(day=usd(100))

    await store.append("c", [TEXT])
    await book.reserve("m/x", call(100))
    await journal.open()

    await store.check()
    assert (await book.balance("day")).open_calls == 1
    await journal.aclose()
    await store.aclose()


async def test_a_closed_ledger_takes_no_calls(ledger: MakeLedger) -> None:
    book = ledger(day=usd(100))
    await book.aclose()
    await book.aclose()

    with pytest.raises(StoreError, match="is closed"):
        await book.reserve("m/x", call())


def test_each_setting_is_a_cap_of_its_own() -> None:
    scopes, units = ("call", "session", "user", "day"), ("usd", "tokens")
    names = [f"budget_{scope}_{unit}" for scope in scopes for unit in units]
    values = {name: 0.1 if name.endswith("usd") else n for n, name in enumerate(names)}

    budget = default_budget(RuntimeSettings(**values))

    assert budget == Budget(
        **{scope: Cap(usd=Decimal("0.1"), tokens=2 * n + 1) for n, scope in enumerate(scopes)}
    )
    assert default_budget(RuntimeSettings()) == Budget()


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "0.00 USD"),
        ("5", "5.00 USD"),
        ("0.0125", "0.0125 USD"),
        ("1250.5", "1,250.50 USD"),
        ("0.0000004", "0.00 USD"),
    ],
)
def test_an_amount_reads_as_money(amount: str, text: str) -> None:
    assert usd_text(Decimal(amount)) == text
