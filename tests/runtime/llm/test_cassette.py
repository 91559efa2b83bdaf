"""What a model answered once is what it answers again, without the model."""

import asyncio
import fcntl
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.llmgine.contracts import (
    Accumulator,
    Attempt,
    BlobPart,
    ChatMessage,
    FinishReason,
    LLMRequest,
    LLMResponse,
    ReasoningPart,
    StreamEnd,
    StreamReset,
    TextDelta,
    TextPart,
    ToolCall,
    ToolCallArgumentsDelta,
    ToolCallStart,
    ToolSpec,
    Usage,
    accumulate,
)
from app.llmgine.errors import CassetteError, ConfigurationError, LLMError, LLMErrorKind
from app.llmgine.llm import Capabilities
from app.llmgine.llm.providers._recordings import canonical, digest
from app.llmgine.llm.providers.cassette import CassetteProvider
from app.llmgine.observability import Redactor
from runtime import strategies

TESTS = str(Path(__file__).parents[2])
SECRET = "sk-CANARY0123456789"


class Model:
    """Says what it is told to, exactly, and notes whether it was closed."""

    name = "model"

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = 0
        self.closed = False

    def capabilities(self, model):
        return Capabilities(structured_output=False)

    async def complete(self, request):
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def stream(self, request):
        self.asked += 1
        for chunk in self.answers.pop(0):
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    async def aclose(self):
        self.closed = True


def ask(text="Hello", **more):
    return LLMRequest(model="m", messages=(ChatMessage.user(text),), **more)


def answer(*parts, finish_reason=FinishReason.STOP):
    return LLMResponse(
        id="1",
        model="m-1",
        provider="model",
        message=ChatMessage(role="assistant", parts=parts),
        finish_reason=finish_reason,
        usage=Usage(input_tokens=1, output_tokens=2),
    )


def said(text):
    return answer(TextPart(text=text))


END = StreamEnd(id="1", model="m-1", provider="model", finish_reason=FinishReason.STOP)


async def streamed(provider, request):
    return [chunk async for chunk in provider.stream(request)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cassettes" / "chat.jsonl"


@pytest.fixture(autouse=True)
def _outside_ci(monkeypatch):
    monkeypatch.delenv("CI", raising=False)


class TestRecordingAndReplaying:
    async def test_what_is_not_there_is_recorded_and_then_comes_without_the_model(self, path):
        first = CassetteProvider(path, Model(said("Hi.")))
        live = await first.complete(ask())

        async with CassetteProvider(path, mode="replay") as cassette:
            assert await cassette.complete(ask()) == live == said("Hi.")

    async def test_the_model_is_made_only_when_something_is_missing(self, path):
        await CassetteProvider(path, Model(said("Hi."))).complete(ask())
        made = []

        cassette = CassetteProvider(path, lambda: made.append(Model(said("Yes."))) or made[0])
        await cassette.complete(ask())
        assert made == []

        await cassette.complete(ask("Really?"))
        await cassette.aclose()
        assert made[0].asked == 1
        assert made[0].closed

    async def test_the_same_request_gets_its_recordings_in_order_and_then_an_error(self, path):
        recorder = CassetteProvider(path, Model(said("one"), said("two")))
        await recorder.complete(ask())
        await recorder.complete(ask())

        cassette = CassetteProvider(path, mode="replay")
        assert [(await cassette.complete(ask())).text for _ in range(2)] == ["one", "two"]
        with pytest.raises(CassetteError, match=r"recorded 2 times .* asked once more"):
            await cassette.complete(ask())

    async def test_who_asks_and_how_long_they_wait_does_not_matter(self, path):
        await CassetteProvider(path, Model(said("Hi."))).complete(ask())

        cassette = CassetteProvider(path, mode="replay")
        other = ask(timeout_s=3, conversation_id="c9", user_id="u9")
        assert (await cassette.complete(other)).text == "Hi."

    async def test_what_reaches_the_model_matters(self, path):
        await CassetteProvider(path, Model(said("Hi."))).complete(ask(extra_body={"k": 1}))

        cassette = CassetteProvider(path, mode="replay")
        with pytest.raises(CassetteError, match="extra_body"):
            await cassette.complete(ask(extra_body={"k": 2}))

    async def test_an_error_comes_again_with_all_it_said_and_says_where_it_comes_from(self, path):
        error = LLMError(
            "Slow down.",
            kind=LLMErrorKind.RATE_LIMIT,
            provider="model",
            model="m",
            status=429,
            retry_after_s=1.5,
        )
        error.attempts = (Attempt(target="model/m", reason="only target", status=429),)
        with pytest.raises(LLMError):
            await CassetteProvider(path, Model(error)).complete(ask())

        with pytest.raises(LLMError) as caught:
            await CassetteProvider(path, mode="replay").complete(ask())
        assert str(caught.value) == str(error)
        assert vars(caught.value).items() >= vars(error).items()
        assert caught.value.__notes__ == [f"Replayed from {str(path)!r}."]

    async def test_the_capabilities_are_those_of_the_recorded_model(self, path):
        await CassetteProvider(path, Model(said("Hi."))).complete(ask())

        cassette = CassetteProvider(path, mode="replay")
        assert cassette.capabilities("m") == Capabilities(structured_output=False)
        assert cassette.capabilities("other") == Capabilities()

    async def test_recordings_left_over_are_told(self, path):
        recorder = CassetteProvider(path, Model(said("one"), said("two")))
        await recorder.complete(ask("first"))
        await recorder.complete(ask("second"))

        cassette = CassetteProvider(path, mode="replay")
        await cassette.complete(ask("first"))
        with pytest.raises(CassetteError, match=r"1 of the 2 recordings .* line 2"):
            cassette.assert_complete()


class TestModes:
    async def test_a_miss_says_what_differs_and_what_to_do(self, path):
        recorder = CassetteProvider(path, Model(said("one"), said("two")))
        await recorder.complete(ask("What is the weather in Oslo?", temperature=0.5))
        await recorder.complete(ask("Tell me a story"))

        cassette = CassetteProvider(path, mode="replay")
        with pytest.raises(CassetteError) as caught:
            await cassette.complete(ask("What is the weather in Rome?", temperature=0.5))
        assert "The nearest one there is line 1" in str(caught.value)
        assert (
            'messages[0].parts[0].text: …t is the weather in Oslo?" there, '
            '…t is the weather in Rome?" here.'
        ) in str(caught.value)
        assert "mode='auto'" in str(caught.value)

    async def test_in_ci_nothing_is_recorded(self, path, monkeypatch):
        monkeypatch.setenv("CI", "true")
        model = Model(said("Hi."))

        with pytest.raises(CassetteError, match="does not exist"):
            await CassetteProvider(path, model).complete(ask())
        assert model.asked == 0
        assert not path.exists()

    async def test_record_starts_anew_when_it_is_closed(self, path):
        await CassetteProvider(path, Model(said("old"), said("stale"))).complete(ask())

        async with CassetteProvider(path, Model(said("new")), "record") as recorder:
            await recorder.complete(ask())

        async with CassetteProvider(path, mode="replay") as cassette:
            assert (await cassette.complete(ask())).text == "new"
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]

    @pytest.mark.parametrize("closed_by_the_application", [False, True])
    async def test_a_record_run_that_fails_leaves_the_old_file(
        self, path, closed_by_the_application
    ):
        await CassetteProvider(path, Model(said("old"))).complete(ask())
        before = path.read_bytes()

        with pytest.raises(ValueError, match="test"):
            async with CassetteProvider(path, Model(said("new")), "record") as recorder:
                await recorder.complete(ask())
                if closed_by_the_application:
                    await recorder.aclose()
                raise ValueError("The test failed.")
        await recorder.aclose()
        await CassetteProvider(path, Model(), "record").aclose()
        assert path.read_bytes() == before

    def test_record_needs_a_model(self, path):
        with pytest.raises(ConfigurationError, match="inner"):
            CassetteProvider(path, mode="record")


class TestStreams:
    async def test_a_stream_comes_chunk_by_chunk_as_it_came(self, path):
        chunks = [TextDelta(text="Hel"), StreamReset(reason="again"), TextDelta(text="Hi."), END]
        assert await streamed(CassetteProvider(path, Model(chunks)), ask()) == chunks

        assert await streamed(CassetteProvider(path, mode="replay"), ask()) == chunks

    async def test_a_recorded_answer_can_be_streamed(self, path):
        call = ToolCall(id="1", name="look", arguments="{}", signature="s", signed_by="model")
        thought = ReasoningPart(text="hm", signature="t", signed_by="model")
        response = answer(thought, TextPart(text="Hi."), call, call.model_copy(update={"id": "2"}))
        await CassetteProvider(path, Model(response)).complete(ask())

        replayed = await streamed(CassetteProvider(path, mode="replay"), ask())
        assert accumulate(replayed) == response

    async def test_a_recorded_stream_can_be_asked_for_at_once(self, path):
        chunks = [TextDelta(text="Hel"), TextDelta(text="lo"), END]
        await streamed(CassetteProvider(path, Model(chunks)), ask())

        replayed = await CassetteProvider(path, mode="replay").complete(ask())
        assert replayed == accumulate(chunks)

    async def test_an_answer_that_no_stream_can_say_is_not_shortened(self, path):
        response = answer(TextPart(text="Look:"), BlobPart(media_type="image/png", data=b"\x89"))
        await CassetteProvider(path, Model(response)).complete(ask())

        assert await CassetteProvider(path, mode="replay").complete(ask()) == response
        with pytest.raises(CassetteError, match="no stream can say"):
            await streamed(CassetteProvider(path, mode="replay"), ask())

    async def test_a_cut_stream_is_cut_again_at_the_same_place(self, path):
        cut = LLMError("The line broke.", kind=LLMErrorKind.NETWORK, provider="model")
        with pytest.raises(LLMError):
            await streamed(CassetteProvider(path, Model([TextDelta(text="Hel"), cut])), ask())

        got = []
        with pytest.raises(LLMError, match="The line broke") as caught:
            async for chunk in CassetteProvider(path, mode="replay").stream(ask()):
                got.append(chunk)
        assert got == [TextDelta(text="Hel")]
        assert caught.value.kind is LLMErrorKind.NETWORK
        with pytest.raises(LLMError, match="The line broke"):
            await CassetteProvider(path, mode="replay").complete(ask())

    async def test_a_malformed_stream_is_recorded_as_the_error_that_it_is(self, path):
        chunks = [TextDelta(text="a"), ToolCallArgumentsDelta(index=7, text="{}")]
        for inner in (Model(chunks), None):
            with pytest.raises(LLMError, match="never started") as caught:
                await streamed(CassetteProvider(path, inner), ask())
            assert caught.value.kind is LLMErrorKind.BAD_RESPONSE

    async def test_a_stream_closed_early_replays_as_far_as_it_was_read(self, path):
        model = Model([TextDelta(text="a"), TextDelta(text="b"), END])
        async with aclosing(CassetteProvider(path, model).stream(ask())) as chunks:
            assert await anext(chunks) == TextDelta(text="a")

        replay = CassetteProvider(path, mode="replay").stream(ask())
        assert await anext(replay) == TextDelta(text="a")
        with pytest.raises(CassetteError, match="closed the stream here"):
            await anext(replay)

    async def test_a_stream_left_after_its_end_is_whole(self, path):
        async with aclosing(CassetteProvider(path, Model([END])).stream(ask())) as chunks:
            await anext(chunks)

        assert await streamed(CassetteProvider(path, mode="replay"), ask()) == [END]

    async def test_a_cancelled_stream_is_closed_and_not_recorded(self, path):
        waiting, closed = asyncio.Event(), asyncio.Event()

        class Stuck(Model):
            async def stream(self, request):
                try:
                    yield TextDelta(text="a")
                    waiting.set()
                    await asyncio.Event().wait()
                finally:
                    closed.set()

        task = asyncio.create_task(streamed(CassetteProvider(path, Stuck()), ask()))
        await waiting.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert closed.is_set()
        assert not path.exists()


class TestSecrets:
    async def test_secrets_in_prompts_and_answers_never_reach_the_file(self, path):
        told = "correct horse battery staple"
        request = ask(
            f"My key is {SECRET}, my words are {told}",
            extra_body={"password": "hunter2!"},
            tools=(ToolSpec(name="look", description="", parameters={"token": SECRET}),),
        )
        response = answer(
            TextPart(text=f"You said {told}"),
            ToolCall(id="1", name="look", arguments=json.dumps({"password": "hunter2!", "n": 1})),
            BlobPart(media_type="text/plain", data=f"key: {SECRET}".encode()),
        )
        recorder = CassetteProvider(path, Model(response), redactor=Redactor([told]))
        assert await recorder.complete(request) == response

        written = path.read_text()
        assert not [secret for secret in (SECRET, told, "hunter2") if secret in written]
        replay = CassetteProvider(path, mode="replay", redactor=Redactor([told]))
        text, call, blob = (await replay.complete(request)).message.parts
        assert text.text == "You said [REDACTED]"
        assert json.loads(call.arguments) == {"password": "[REDACTED]", "n": 1}
        assert blob.data == b"key: [REDACTED]"

    async def test_a_secret_that_came_in_pieces_is_masked_too(self, path):
        start = ToolCallStart(index=0, id="1", name="look")
        chunks = [
            TextDelta(text="It is sk-CANARY"),
            start,
            TextDelta(text="0123456789."),
            ToolCallArgumentsDelta(index=0, text='{"token": "ab'),
            ToolCallArgumentsDelta(index=0, text='cdefgh"}'),
            END,
        ]
        await streamed(CassetteProvider(path, Model(chunks)), ask())

        assert "0123456789" not in path.read_text()
        assert "cdefgh" not in path.read_text()
        replayed = accumulate(await streamed(CassetteProvider(path, mode="replay"), ask()))
        assert replayed.text == "It is [REDACTED]."
        assert json.loads(replayed.tool_calls[0].arguments) == {"token": "[REDACTED]"}

    async def test_a_conversation_goes_on_from_a_masked_answer(self, path):
        def then(first):
            history = (ChatMessage.user("My key?"), first.message, ChatMessage.user("Thanks"))
            return LLMRequest(model="m", messages=history)

        note = BlobPart(media_type="text/plain", data=SECRET.encode())
        told = answer(TextPart(text=f"It is {SECRET}"), note)
        recorder = CassetteProvider(path, Model(told, said("Bye.")))
        await recorder.complete(then(await recorder.complete(ask("My key?"))))

        cassette = CassetteProvider(path, mode="replay")
        first = await cassette.complete(ask("My key?"))
        assert (await cassette.complete(then(first))).text == "Bye."


class TestTheFile:
    async def test_a_reviewer_can_read_what_was_asked(self, path):
        await CassetteProvider(path, Model(said("Grüezi"))).complete(ask("Grüß Gott"))

        line = json.loads(path.read_text())
        assert line["request"]["messages"][0]["parts"][0]["text"] == "Grüß Gott"
        assert "Grüß Gott" in path.read_text()
        assert (line["version"], len(line["hash"])) == (1, 64)

    async def test_calls_at_once_each_write_a_whole_line(self, path):
        count = 50
        prompts = [f"{number} " + "x" * 9_000 for number in range(count)]
        cassettes = [CassetteProvider(path, Model(*map(said, prompts[at::2]))) for at in (0, 1)]
        await asyncio.gather(
            *(cassettes[number % 2].complete(ask(text)) for number, text in enumerate(prompts))
        )

        async with CassetteProvider(path, mode="replay") as cassette:
            for text in prompts:
                assert (await cassette.complete(ask(text))).text == text

    def test_processes_at_once_write_and_read_whole_lines(self, path):
        code = (
            "import asyncio, sys\n"
            "from app.llmgine.contracts import ChatMessage, LLMRequest\n"
            "from app.llmgine.llm.providers.cassette import CassetteProvider\n"
            "from app.llmgine.testing import ScriptedProvider\n"
            "async def main(path, who):\n"
            "    for number in range(10):\n"
            "        cassette = CassetteProvider(path, ScriptedProvider(['y' * 50_000]))\n"
            "        said = ChatMessage.user(f'{who} {number} ' + 'x' * 50_000)\n"
            "        await cassette.complete(LLMRequest(model='m', messages=(said,)))\n"
            "asyncio.run(main(*sys.argv[1:]))\n"
        )
        env = {**os.environ, "PYTHONPATH": TESTS}
        processes = [
            subprocess.Popen([sys.executable, "-c", code, path, who], env=env) for who in "ab"
        ]
        assert [process.wait() for process in processes] == [0, 0]

        assert path.read_bytes().count(b"\n") == 20
        CassetteProvider(path, mode="replay")

    async def test_who_reads_waits_for_the_end_of_a_line_that_is_being_written(self, path):
        await CassetteProvider(path, Model(said("one"))).complete(ask())
        line = path.read_bytes()

        with ThreadPoolExecutor() as threads, path.open("ab", buffering=0) as writing:
            fcntl.flock(writing, fcntl.LOCK_EX)
            writing.write(line[:40])
            reading = threads.submit(CassetteProvider, path, mode="replay")
            with pytest.raises(TimeoutError):
                reading.result(timeout=0.1)
            writing.write(line[40:])
            fcntl.flock(writing, fcntl.LOCK_UN)
            cassette = reading.result()
        assert [(await cassette.complete(ask())).text for _ in range(2)] == ["one", "one"]

    async def test_a_torn_last_line_is_told_by_its_number(self, path):
        recorder = CassetteProvider(path, Model(said("one"), said("two")))
        await recorder.complete(ask("first"))
        await recorder.complete(ask("second"))
        path.write_bytes(path.read_bytes()[:-40])

        with pytest.raises(CassetteError, match="line 2 is cut off"):
            CassetteProvider(path, mode="replay")

    @pytest.mark.parametrize("line", ["{", "[]", "{}", '{"version": 1, "hash": "a"}', "", "7"])
    def test_a_line_that_is_no_recording_is_told_by_its_number(self, tmp_path, line):
        path = tmp_path / "a.jsonl"
        path.write_text(line + "\n")

        with pytest.raises(CassetteError, match="line 1 is no recording"):
            CassetteProvider(path, mode="replay")

    async def test_a_file_of_a_newer_version_is_refused(self, path):
        await CassetteProvider(path, Model(said("one"))).complete(ask())
        line = {**json.loads(path.read_text()), "version": 2, "new_thing": 1}
        path.write_text(json.dumps(line) + "\n")

        with pytest.raises(CassetteError, match=r"version 2, .* up to 1\. Update"):
            CassetteProvider(path, mode="replay")

    async def test_a_file_that_cannot_be_written_is_told(self, tmp_path):
        cassette = CassetteProvider(tmp_path / "folder" / "a.jsonl", Model(said("x")))
        (tmp_path / "folder").write_text("no folder")

        with pytest.raises(CassetteError, match="cannot be written"):
            await cassette.complete(ask())


@st.composite
def streams(draw):
    """Chunks that may follow each other, up to their end."""
    answer, stream = Accumulator(), []
    drawn = draw(st.lists(strategies.chunks, max_size=8))
    for chunk in [*drawn, draw(strategies.stream_ends)]:
        with suppress(LLMError):
            answer.add(chunk)
            stream.append(chunk)
    return stream


def shuffled(value, dice):
    if isinstance(value, dict):
        items = [(key, shuffled(item, dice)) for key, item in value.items()]
        dice.shuffle(items)
        return dict(items)
    return [shuffled(item, dice) for item in value] if isinstance(value, list) else value


class TestLaws:
    @given(st.lists(st.tuples(strategies.llm_requests, strategies.llm_responses), max_size=4))
    @settings(max_examples=50)
    async def test_what_was_answered_is_what_is_replayed_from_the_file_and_its_copy(self, calls):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "a.jsonl"
            model = Model(*(response for _, response in calls))
            async with CassetteProvider(path, model, "record") as recorder:
                for request, response in calls:
                    assert await recorder.complete(request) == response
            lines = path.read_text().split("\n") if calls else []
            path.with_name("b.jsonl").write_text(
                "".join(f"{json.dumps(json.loads(line))}\n" for line in lines if line)
            )

            for name in ("a.jsonl", "b.jsonl"):
                async with CassetteProvider(path.with_name(name), mode="replay") as cassette:
                    for request, response in calls:
                        assert await cassette.complete(request) == response

    @given(strategies.llm_requests, streams())
    @settings(max_examples=50)
    async def test_what_was_streamed_is_what_is_replayed_at_once_as_well(self, request, chunks):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "a.jsonl"
            assert await streamed(CassetteProvider(path, Model(chunks)), request) == chunks

            assert await streamed(CassetteProvider(path, mode="replay"), request) == chunks
            whole = await CassetteProvider(path, mode="replay").complete(request)
            assert whole == accumulate(chunks)

    @given(strategies.llm_requests, streams())
    @settings(max_examples=50)
    async def test_an_answer_that_a_stream_can_say_is_replayed_as_one(self, request, chunks):
        response = accumulate(chunks)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "a.jsonl"
            await CassetteProvider(path, Model(response)).complete(request)

            replayed = await streamed(CassetteProvider(path, mode="replay"), request)
            assert accumulate(replayed) == response

    @given(strategies.llm_requests, st.randoms(use_true_random=False))
    @settings(max_examples=50)
    def test_the_order_of_keys_does_not_matter_to_the_hash(self, request, dice):
        other = LLMRequest.model_validate_json(
            json.dumps(shuffled(json.loads(request.model_dump_json()), dice))
        )

        asked = [canonical(each, Redactor()) for each in (request, other)]
        assert digest(asked[0]) == digest(asked[1])

    def test_every_process_makes_the_same_hash(self):
        code = (
            "from app.llmgine.contracts import ChatMessage, LLMRequest, ToolSpec\n"
            "from app.llmgine.llm.providers._recordings import canonical, digest\n"
            "from app.llmgine.observability import Redactor\n"
            "tool = ToolSpec(name='look', description='', parameters={'a': {'c': 1}, 'b': 2})\n"
            "request = LLMRequest(model='m', messages=(ChatMessage.user('hi'),), tools=(tool,))\n"
            "print(digest(canonical(request, Redactor())))"
        )
        hashes = {
            subprocess.check_output(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONPATH": TESTS, "PYTHONHASHSEED": seed},
            )
            for seed in ("1", "2")
        }

        # The files in people's repositories hold it: to change it, count VERSION up.
        assert hashes == {b"de8a24b15f5e77fe93697276f1bcc7acf73d06b54d2e016b179ffce929621ba9\n"}
