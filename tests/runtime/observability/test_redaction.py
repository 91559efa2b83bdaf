"""No secret leaves the redactor, in whatever form it goes in; what is no secret does."""

import base64
import json
import re
import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from app.llmgine.observability import Redactor
from app.llmgine.observability.redaction import MASK, MASK_ERROR

CANARY = "hunter2-and-a-half"

SHAPED = [
    "sk-CANARYabcdefgh12345678",
    "sk-ant-api03-CANARY_abcdefgh-12345678",
    "sk-proj-CANARYabcdefgh",
    "AKIACANARYCANARY1234",
    "ASIACANARYCANARY1234",
    "ghp_CANARYcanaryCANARYcanary12345678",
    "github_pat_CANARYcanaryCANARYcanary",
    "AIzaSyCANARYcanaryCANARYcanary123456789",
    "hf_CANARYcanaryCANARYcanary",
    "xoxb-1234567890-CANARYcanary",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJDQU5BUlkifQ.c2lnbmF0dXJlCANARY",
    "-----BEGIN RSA PRIVATE KEY-----\nCANARYcanary\nCANARY==\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\nCANARYcut",
]

SECRET_KEYS = [
    "password",
    "DB_PASSWORD",
    "userPasswd",
    "client_secret",
    "clientSecret",
    "api_key",
    "apiKey",
    "x-api-key",
    "APIKEY",
    "Authorization",
    "proxy-authorization",
    "Set-Cookie",
    "credentials",
    "aws.credential",
    "private_key",
    "privateKey",
    "token",
    "accessToken",
    "refresh_token",
    "X-Auth-Token",
    "auth",
]

OPEN_KEYS = [
    "input_tokens",
    "max_output_tokens",
    "maxTokens",
    "tokens",
    "token_count",
    "total_tokens",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.request.max_tokens",
    "context_budget_tokens",
    "time_per_output_token",
    "author",
    "key",
    "monkey",
    "tokenizer",
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def nested(draw: st.DrawFn, leaf: str) -> object:
    """The leaf somewhere inside of dictionaries and lists, also as a key."""
    value: object = leaf
    for _ in range(draw(st.integers(0, 6))):
        match draw(st.sampled_from(["dict", "list", "tuple", "key"])):
            case "dict":
                value = {draw(st.text(max_size=8)): draw(json_values), "it": value}
            case "list":
                value = [draw(json_values), value]
            case "tuple":
                value = (value, draw(json_values))
            case "key":
                value = {leaf: value}
    return value


def texts_in(value: object) -> list[str]:
    match value:
        case str():
            return [value]
        case dict():
            return [text for pair in value.items() for part in pair for text in texts_in(part)]
        case list():
            return [text for item in value for text in texts_in(item)]
        case _:
            return []


def forms_of(secret: str, before: str, after: str) -> list[str]:
    octets = (before + secret + after).encode("utf-8", "surrogatepass")
    return [
        before + secret + after,
        before + quote(secret, safe="", errors="surrogatepass") + after,
        before + quote(secret, errors="surrogatepass") + after,
        before + _lower_hex(quote(secret, safe="", errors="surrogatepass")) + after,
        before + quote_plus(secret, errors="surrogatepass") + after,
        before + quote(quote(secret, safe="", errors="surrogatepass"), safe="") + after,
        json.dumps(before + secret + after),
        json.dumps(json.dumps(before + secret + after)),
        json.dumps(before + secret + after, ensure_ascii=False),
        repr(before + secret + after),
        base64.b64encode(octets).decode(),
        base64.urlsafe_b64encode(octets).decode(),
    ]


def _lower_hex(quoted: str) -> str:
    return re.sub("%..", lambda match: match[0].lower(), quoted)


def recover(text: str) -> list[str]:
    """What somebody who finds the text could read out of it."""
    found = [text]
    for start in range(4):
        for altchars in (b"+/", b"-_"):
            whole = text[start : start + (len(text) - start) // 4 * 4]
            try:
                found.append(base64.b64decode(whole, altchars).decode("utf-8", "surrogatepass"))
            except ValueError:
                continue
    return found


secrets = st.text(st.characters(codec="utf-8"), min_size=8, max_size=40).filter(
    lambda secret: len(secret.strip()) >= 8 and len(set(secret)) > 3 and "REDACTED" not in secret
)


@given(st.data(), secrets, st.text(max_size=9), st.text(max_size=9))
def test_a_secret_it_was_told_of_never_comes_out_in_any_form(
    data: st.DataObject, secret: str, before: str, after: str
) -> None:
    redactor = Redactor([secret])
    form = data.draw(st.sampled_from(forms_of(secret, before, after)))
    value = data.draw(nested(form))

    clean = redactor.fields({"field": value})

    for text in texts_in(clean):
        assert form not in text or form == ""
        assert not any(secret.strip() in read for read in recover(text))
    assert MASK in json.dumps(clean)


@given(st.data(), st.sampled_from(SHAPED))
def test_a_value_shaped_like_a_secret_never_comes_out(data: st.DataObject, secret: str) -> None:
    around = data.draw(
        st.sampled_from(["{}", "got {}.", "'{}'", "a=%3D{}", "line\\n{}", "[{}]", '"{}",', "({})"])
    )

    clean = Redactor().fields({"field": data.draw(nested(around.format(secret)))})

    assert "canary" not in json.dumps(clean).lower()


@given(st.data(), st.sampled_from(SECRET_KEYS))
def test_what_stands_under_a_secret_name_never_comes_out(data: st.DataObject, key: str) -> None:
    value = {"outer": [{key: data.draw(nested(CANARY))}]}

    assert CANARY not in json.dumps(Redactor().fields(value))


@given(
    st.sampled_from(OPEN_KEYS),
    st.integers(1 - 2**63, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False),
)
def test_counts_of_tokens_survive(key: str, count: float) -> None:
    assert Redactor().fields({key: count}) == {key: count}


def test_counts_of_tokens_survive_in_a_breakdown_but_tokens_themselves_do_not() -> None:
    tokens = {"tokens": {"input": 3, "output": [4, None]}, "accessTokens": ["abc", {"a": "b"}]}

    clean = Redactor().fields(tokens)

    assert clean == {
        "tokens": {"input": 3, "output": [4, None]},
        "accessTokens": [MASK, {"a": MASK}],
    }


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("GET https://x.test/v1?key=abc&alt=sse", f"GET https://x.test/v1?key={MASK}&alt=sse"),
        ("?key=x", f"?key={MASK}"),
        ("://:p@", f"://:{MASK}@"),
        ("postgres://app:p@ss@db:5432/x", f"postgres://app:{MASK}@db:5432/x"),
        ("Bearer abcdef123456", f"Bearer {MASK}"),
        ("{'Authorization': 'Basic dTpw', 'a': 1}", f"{{'Authorization': '{MASK}', 'a': 1}}"),
        ("Cookie: a=b; c=d\nHost: x", f"Cookie: {MASK}\nHost: x"),
        ('{"password": "two words", "n": 1}', f'{{"password": {MASK}, "n": 1}}'),
        ('{\\"api_key\\": \\"two words\\"}', f'{{\\"api_key\\": {MASK}}}'),
        ("OPENAI_API_KEY=abc go", f"OPENAI_API_KEY={MASK} go"),
        ("password=b'abc'", f"password={MASK}"),
        (
            "bad [type=int, input_value='mine', input_type=str]",
            f"bad [type=int, input_value={MASK}, input_type=str]",
        ),
    ],
)
def test_a_secret_inside_a_text_is_masked_and_the_rest_stays(text: str, clean: str) -> None:
    assert Redactor().text(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "a task-force-of-many-people on a desk-1234567890",
        "input_tokens=12, max_output_tokens: 7",
        "https://example.test/a/b?page=2",
        "0190a1b2-c3d4-7abc-8def-0123456789ab",
        "The author of the tokenizer",
        "keyboard and monkey business",
    ],
)
def test_a_text_without_a_secret_stays_as_it_is(text: str) -> None:
    assert Redactor(["something-else"]).text(text) == text


@given(
    st.sampled_from(["password: {}", "https://u:{}@h/?key={}", "Authorization: {}", "{}"]),
    st.text(),
)
def test_redacting_again_changes_nothing(frame: str, text: str) -> None:
    redactor = Redactor([CANARY])
    once = redactor.text(frame.replace("{}", text))

    assert redactor.text(once) == once


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no")


class HostileDict(dict[str, object]):
    def items(self):  # type: ignore[no-untyped-def]
        raise RuntimeError("no")


@given(json_values)
def test_a_value_that_cannot_be_looked_at_costs_only_itself(other: object) -> None:
    fields = {"bad": Hostile(), "worse": HostileDict(a=1), "other": other}

    clean = Redactor().fields(fields)

    assert clean["bad"] == clean["worse"] == MASK_ERROR
    assert clean["other"] == Redactor().fields({"other": other})["other"]


def test_a_mapping_that_cannot_be_walked_still_gives_a_record() -> None:
    assert Redactor().fields(HostileDict(a=1)) == {"error": MASK_ERROR}


def test_a_value_that_contains_itself_comes_to_an_end() -> None:
    loop: list[object] = []
    loop.append(loop)

    assert MASK_ERROR in json.dumps(Redactor().fields({"loop": loop, "n": 10**10_000}))


class Login(BaseModel):
    user: str
    password: str
    key: SecretStr


def test_a_model_is_redacted_by_the_names_of_its_fields() -> None:
    login = Login(user="me", password=CANARY, key=SecretStr(CANARY))

    clean = Redactor().fields({"login": login, "error": ValueError(f"token={CANARY}")})

    assert clean == {
        "login": {"user": "me", "password": MASK, "key": "**********"},
        "error": f"token={MASK}",
    }


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=4))
def test_what_comes_out_is_json(fields: dict[str, object]) -> None:
    clean = Redactor([CANARY]).fields(fields)

    assert json.loads(json.dumps(clean, allow_nan=False)) == clean


@pytest.mark.parametrize(
    "text",
    [
        "eyJ" * 30_000,
        "password=" * 10_000,
        "://a:" * 20_000,
        "input_value=" * 8_000,
        "\\" * 90_000 + "password",
        "-----BEGIN " * 9_000,
        "secret:" + " " * 90_000,
        "passwd='" * 10_000,
        f"{'+' * 90_000}hunter2",
    ],
)
def test_no_text_takes_long(text: str) -> None:
    redactor = Redactor([CANARY, "\n\\ %é hunter2 \n"])
    start = time.process_time()

    redactor.text(text)

    assert time.process_time() - start < 5  # A quadratic pattern takes minutes.
