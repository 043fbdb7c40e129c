"""Secrets, control characters, hostile values, and the caller's snapshot table."""

import time
import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltelemetry.redact import _PIECE, MAX_TEXT, clean_text, escape_controls, is_secret_key, may_count, redact

SECRET = "hunter2-XyZ"


@pytest.mark.parametrize(
    "text",
    [
        f"GET http://user:{SECRET}@host:5000/api",
        f"postgresql+psycopg://user:p@{SECRET}@host/db",
        f"http://{SECRET}@host",
        f"https://host/x?a=1&token={SECRET}&b=2",
        f"https://host/x?key={SECRET}",
        f"https://host/x?sig={SECRET}#top",
        f"MLFLOW_TRACKING_TOKEN={SECRET}",
        f"password: {SECRET}",
        f'{{"api_key": "{SECRET} with spaces"}}',
        f"{{'client_secret': '{SECRET}'}}",
        f'{{\\"password\\": \\"{SECRET}\\"}}',
        f"SecretAccess_Key={SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"Authorization: Basic {SECRET}",
        f"authorization={SECRET}",
        f"headers={{'authorization': 'Token {SECRET}'}}",
        f"sent bearer {SECRET} to the server",
        f"Settings(password='{SECRET}', x=1)",
        f"namespace(password=['{SECRET}'])",
        f"{{'password': {{'prod': [1, ('{SECRET}',)]}}}}",
        f'{{"api_keys": {{"wandb": "{SECRET}"}}}}',
        f"{{b'password': b'{SECRET}'}}",
        f"secrets=deque(['a', '{SECRET}'",
        f"password=[[[[[[[1], '{SECRET}']]]]]]",
        f"namespace(tokens=['{SECRET}'])",
        f'{{"api_tokens": {{"wandb": "{SECRET}"}}}}',
    ],
)
def test_a_planted_secret_is_gone(text: str) -> None:
    assert SECRET not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "token",
    ["dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA"],
)
def test_basic_credentials_are_known_by_their_content(token: str) -> None:
    assert redact(f"Basic {token} refused") == "Basic *** refused"


@pytest.mark.parametrize(
    "token",
    [
        "ghp_0123456789abcdefghij",
        "hf_abcdefghijABCDEFGHIJ",
        "dapi0123456789abcdef0123",
        "eyJhbGciOiJI.eyJzdWIiOiIxMjM0NTY3.SflKxwRJSMeKKF2QT4",
    ],
)
def test_tokens_of_known_shape_are_masked_wherever_they_stand(token: str) -> None:
    assert token not in redact(f"using {token} now")


@pytest.mark.parametrize(
    "text",
    [
        "train",
        "http://localhost:5000/api/2.0/mlflow/runs/log-batch",
        "https://host/@user/x",
        "num_tokens=512 tokens_per_second: 3",
        "tokens=[101, 7] api_tokens={'prompt': 3} tokens: 512",
        "Basic training of the bearers",
        "loss=0.5 lr=3e-4 key=trainer/loss",
        "tokenizer=gpt2",
        "ratio 3:4",
    ],
)
def test_harmless_texts_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


def test_a_secret_across_the_cut_is_gone() -> None:
    assert "hunter" not in clean_text("x" * 4080 + "http://ann:hunter2hunter2@host")


def test_what_surrounds_a_secret_stays() -> None:
    assert redact("GET http://u:p@h:1/x?token=abc&b=2 failed") == "GET http://***@h:1/x?token=***&b=2 failed"


def test_what_follows_a_container_of_secrets_stays() -> None:
    assert redact("namespace(password=['a', {'b': ')'}], n=[1])") == "namespace(password=***, n=[1])"


def test_long_text_is_redacted_as_its_parts_are() -> None:
    lines = [
        f"GET http://user:{SECRET}@host:5000/api",
        f"password: {SECRET}",
        f'{{"api_key": "{SECRET} with spaces"}}',
        'private_key="-----BEGIN KEY-----\n' + "MIIE\n" * 2000 + '"',
        f"sent bearer {SECRET} to the server",
        "Basic dXNlcjpwYXNzd29yZA== refused",
        "using ghp_0123456789abcdefghij now",
        "eyJhbGciOiJI.eyJzdWIiOiIxMjM0NTY3.SflKxwRJSMeKKF2QT4 and eyJhbGciOiJI alone\t",
        "lr: 0.0003  # the learning rate",
        "x" * 1009,
    ]
    text = "\n".join(lines * 20)
    assert len(text) > 200_000
    parts = [escape_controls(redact(line), keep_newlines=True) for line in lines]
    assert clean_text(text, len(text), keep_newlines=True) == "\n".join(parts * 20)


@pytest.mark.parametrize(
    "secret",
    [
        f"http://user:{SECRET}@host",
        f"password: {SECRET}",
        'private_key="' + "MIIE\n" * 2000 + '"',
        "passwords=['" + "hunter2 " * 2000 + "']",
        f"bearer {SECRET}",
        "Basic dXNlcjpwYXNzd29yZA==",
        "ghp_0123456789abcdefghij",
        "eyJhbGciOiJI.eyJzdWIiOiIxMjM0NTY3.SflKxwRJSMeKKF2QT4",
    ],
)
def test_secret_across_the_end_of_a_piece_is_gone(secret: str) -> None:
    for length in range(1, min(len(secret), 60)):
        before, after = " " * (_PIECE - length), " ." * 10_000
        assert redact(before + secret + after) == before + redact(secret) + after


def test_tokens_that_begin_again_and_again_are_read_once() -> None:
    def seconds(piece: str) -> float:
        text = piece * (_PIECE // len(piece))
        return min(timeit.repeat(lambda: redact(text), number=1, repeat=3, timer=time.thread_time))

    assert seconds("-eyJ") < 10 * seconds("-abc") + 0.01


def test_long_text_is_redacted_in_pieces_between_which_others_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    redact("lr: 0.0003  # the learning rate\n" * 2**15)
    assert pauses.count(0) > 200
    pauses.clear()
    redact("lr: 0.0003  # the learning rate\n" * 100)
    assert 0 not in pauses


@pytest.mark.parametrize(
    "piece",
    [
        "://",
        "token=",
        "a-",
        "basic ",
        'password="',
        "x:@",
        "\\",
        "secret",
        "&key=",
        "-eyJ",
        "token=[",
        "token=x",
        "token=['",
        "tokens={'",
        'tokens=["',
        "(tokens='a'",
    ],
)
def test_redaction_of_a_megabyte_takes_linear_time(piece: str) -> None:
    text = piece * (2**18 // len(piece))
    quarter = min(timeit.repeat(lambda: redact(text[: len(text) // 4]), number=1, repeat=3, timer=time.thread_time))
    whole = min(timeit.repeat(lambda: redact(text), number=1, repeat=3, timer=time.thread_time))
    assert whole < 12 * quarter + 0.05  # 16 times would be quadratic


@pytest.mark.parametrize(
    "name",
    ["password", "db_password", "dbPassword", "token", "access_token", "hf-token", "api_key", "apiKey", "APIKEY",
     "Authorization", "client_secret", "AWS_SECRET_ACCESS_KEY", "credentials", "private_key", "MLFLOW_TRACKING_TOKEN",
     "DB_PASS", "passwords", "private_key_pem", "token_value",
     "api_keys", "privateKeys", "passphrases", "cookies", "tokens", "api_tokens", "wandbTokens"],
)  # fmt: skip
def test_secret_names_are_known(name: str) -> None:
    assert is_secret_key(name)


@pytest.mark.parametrize(
    "name",
    [
        "num_tokens",
        "total_tokens",
        "promptTokens",
        "tokens_per_second",
        "tokenizer",
        "key",
        "keyboard",
        "monkey",
        "secretary",
        "loss",
        "",
        "é",
        "author",
    ],
)
def test_other_names_are_not(name: str) -> None:
    assert not is_secret_key(name)


@pytest.mark.parametrize(
    ("name", "may"), [("tokens", True), ("api_tokens", True), ("token", False), ("secret_tokens", False)]
)
def test_only_what_can_be_counted_may_hold_measures(name: str, may: bool) -> None:
    assert may_count(name) is may


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a\nb\r\t", r"a\nb\r\t"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x00\x7f\x80\x9b", r"\x00\x7f\x80\x9b"),
        ("a\ud800b", "a\ufffdb"),
        ("a\u2028b\u202ec\ufeff", r"a\u2028b\u202ec\ufeff"),
        ("Länge 日本 \xa0 🎉", "Länge 日本 \xa0 🎉"),
    ],
)
def test_controls_become_visible(text: str, escaped: str) -> None:
    assert escape_controls(text) == escaped


def test_newlines_may_be_kept() -> None:
    assert escape_controls("a\n\tb\x1b\r", keep_newlines=True) == "a\n" + r"\tb\x1b\r"


def test_long_texts_are_cut_with_a_count() -> None:
    assert clean_text("x" * 2**20) == "x" * MAX_TEXT + f"... ({2**20 - MAX_TEXT} more characters)"


@given(st.text())
def test_escaped_text_is_one_encodable_line(text: str) -> None:
    escaped = escape_controls(text)
    assert len(escaped.splitlines()) <= 1
    escaped.encode()
