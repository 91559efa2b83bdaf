"""Errors become exit codes and one line of text."""

from datetime import UTC, datetime

import pytest
import typer

from app.llmgine import errors
from app.llmgine.interfaces.cli.entry import (
    MEANINGS,
    ExitCode,
    exit_code,
    exit_code_table,
    one_line,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BAD = errors.LLMErrorKind.BAD_RESPONSE
CASES = [
    (errors.ConfigurationError("x"), 3),
    (errors.UnknownModelError("x"), 3),
    (errors.MissingKeyError("x"), 3),
    (errors.MissingExtraError("traces", "otlp"), 3),
    (errors.ToolDefinitionError("x"), 3),
    (errors.BusStartError([errors.BusError("x")]), 3),
    (errors.HandlerMissingError("x"), 3),
    (errors.HandlerExistsError("x"), 3),
    (errors.LLMError("x", kind=errors.LLMErrorKind.SERVER, provider="openai"), 4),
    (errors.ScriptError("x"), 4),
    (errors.BudgetError("x", scope="day", model="m"), 5),
    (errors.OutputError("x", kind=BAD, provider="p", model="m"), 4),
    (errors.OutputTruncatedError("x", kind=BAD, provider="p", model="m"), 4),
    (errors.CassetteError("x"), 4),
    (errors.TurnLimitError("x"), 5),
    (errors.ContextTooLargeError("x", needed_tokens=2, budget_tokens=1), 5),
    (errors.StoreError("x"), 6),
    (errors.ConversationConflictError("c", expected_seq=1, actual_seq=2), 6),
    (errors.DeadlineExceededError("Ask", seconds=1), 5),
    (errors.RateLimitedError("Ask", retry_after_s=1), 5),
    (errors.CircuitOpenError("Ask", retry_after_s=1), 1),
    (errors.ApprovalRejectedError("Pay", by="ada", reason="", expired=False), 1),
    (errors.UnknownApprovalError("x"), 1),
    (errors.AlreadyDecidedError("x", approved=True, by="ada", at=NOW, outcome="decided"), 1),
    (errors.NotAllowedError("x", by="bob", allowed="ada"), 1),
    (errors.BusClosedError("x"), 1),
    (errors.JournalError("x"), 6),
    (errors.MessageUnreadableError("x"), 6),
    (errors.TransportError("x"), 8),
    (errors.ResultTimeoutError("x", timeout_s=1, state="ready"), 5),
    (errors.DeliveryError("x"), 1),
    (errors.MessageTooLargeError("Ask", size_bytes=2, limit_bytes=1), 1),
    (errors.UnknownReceiptError("x"), 1),
    (errors.CursorExpiredError(1, first=3), 1),
    (errors.WorkerLostError("Ask", losses=5), 1),
    (errors.RemoteError("shop.SoldOutError", "no"), 1),
    (typer.BadParameter("x"), 2),
    (ValueError("x"), 1),
    (KeyboardInterrupt(), 130),
    (BrokenPipeError(), 141),
]


@pytest.mark.parametrize(("error", "code"), CASES, ids=lambda value: type(value).__name__)
def test_each_error_has_its_exit_code(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_every_error_of_the_tree_is_a_case_here() -> None:
    """A new error class must be given a thought: which exit code does it get?"""
    known = {type(error) for error, _ in CASES}
    leaves = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.LlmgineError)
    } - {errors.LlmgineError, errors.BusError, errors.ContextError, errors.LaneFullError}

    assert leaves <= known


def test_help_shows_every_exit_code() -> None:
    table = exit_code_table()

    assert set(MEANINGS) == set(ExitCode)
    for code in ExitCode:
        assert f"{code.value:>3}  {MEANINGS[code]}" in table


def test_our_errors_are_shown_as_they_are_on_one_line() -> None:
    assert one_line(errors.StoreError("The store\n is gone.")) == "The store is gone."


def test_other_errors_are_shown_with_their_class() -> None:
    assert one_line(ValueError("no\nway")) == "unexpected ValueError: no way"
    assert one_line(ValueError()) == "unexpected ValueError"
