"""Keys by file: the format, limits, and a file that changes while the server runs."""

import hashlib
import json
import os
import select
import signal
import sys
import time

import openai
import pytest

from rdlite import InputError
from rdlite.serve.access.caller import Caller, LimitError
from rdlite.serve.access.keyring import Keyring
from rdlite.serve.access.keys import Key, read_keys

ALICE, BOB = "sk-alice-0123456789", "sk-bob-0123456789"
BODY = {"model": "nano", "messages": [{"role": "user", "content": "What is 48 + 76?"}]}
LIMITED = f"""# who may call

alice {ALICE} requests=2 tokens-per-minute=6000
bob\tsha256:{hashlib.sha256(BOB.encode()).hexdigest().upper()}
"""


def written(tmp_path, text):
    path = tmp_path / "keys"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_file_has_names_keys_or_hashes_and_limits(tmp_path):
    alice, bob = read_keys(written(tmp_path, LIMITED))
    assert alice == Key("alice", hashlib.sha256(ALICE.encode()).digest(), 2, 6000)
    assert bob == Key("bob", hashlib.sha256(BOB.encode()).digest())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no keys; a line is"),
        ("# nobody\n", "has no keys"),
        (f"# one\n{ALICE}\n", "line 2: there is only one word"),
        ("alice short", "line 1: the API key must be 8 to 512"),
        ("alice käse-käse-käse", "line 1: the API key must be"),
        ("a/b sk-alice-0123456789", "line 1: the name must be"),
        ("alice sha256:12345678", "line 1: a hash must be sha256: and 64"),
        (f"alice {ALICE} rpm=3", "line 1: after the key comes requests=NUMBER"),
        (f"alice {ALICE} requests=0", "requests must be a whole number from 1 to 4096, got '0'"),
        (f"alice {ALICE} requests=-1", "got '-1'"),
        (f"alice {ALICE} tokens-per-minute=1e9", "from 1 to 1000000000, got '1e9'"),
        (f"alice {ALICE} requests=1 requests=2", "requests is there twice"),
        (f"alice {ALICE}\nalice {BOB}", "line 2: an earlier line has the same name"),
        (f"alice {ALICE}\nbob {ALICE}", "line 2: an earlier line has the same key"),
        (b"alice \xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8", "not text in UTF-8"),
        ("#" * 2**20 + "#", "larger than 1 MiB"),
        ("\n".join(f"n{i} key-number-{i}" for i in range(1025)), "more than 1024 keys"),
    ],
)
def test_what_is_no_file_of_keys_is_refused_by_line_and_shows_no_key(tmp_path, text, said):
    with pytest.raises(InputError, match=said) as problem:
        read_keys(written(tmp_path, text))
    message = str(problem.value)
    assert "\n" not in message
    assert ALICE not in message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*nowhere: No such file"):
        read_keys(tmp_path / "nowhere")


def test_the_keys_of_option_and_file_are_valid_together(tmp_path):
    both = Keyring("the option's own", written(tmp_path, LIMITED))
    names = [both.find(key) for key in ("the option's own", ALICE, BOB)]
    assert [caller.name for caller in names] == ["default", "alice", "bob"]
    for wrong in ("", ALICE[:-1], ALICE + "0", "x" * 10**6, "\udcff" * 9):
        assert both.find(wrong) is None
    with pytest.raises(InputError, match="'default' is that of the key from --api-key"):
        Keyring("the option's own", written(tmp_path, f"default {ALICE}"))


def test_tokens_are_owed_and_paid_off_by_the_minute():
    now = [100.0]
    caller = Caller(Key("a", b"", tokens_per_minute=60), lambda: now[0])
    caller.begin()
    caller.begin()  # nobody knows yet what the first one takes
    caller.end(90)
    with pytest.raises(LimitError, match="used its 60 tokens a minute") as refused:
        caller.begin()
    assert (refused.value.kind, refused.value.retry_after) == ("tokens", 31)
    now[0] += refused.value.retry_after - 1.5
    with pytest.raises(LimitError):
        caller.begin()
    now[0] += 1.5
    caller.begin()
    now[0] += 10_000  # what is not used does not add up beyond a minute's
    caller.end(60)
    with pytest.raises(LimitError):
        caller.begin()


def test_requests_at_once_are_counted_and_limits_can_change():
    caller = Caller(Key("a", b"", requests=1))
    caller.begin()
    with pytest.raises(LimitError, match="1 requests running, and may have 1 at once"):
        caller.begin()
    caller.change(Key("a", b"", requests=2))
    caller.begin()
    caller.end(0)
    caller.change(Key("a", b"", tokens_per_minute=5))
    caller.begin()
    caller.end(6)
    caller.change(Key("a", b"", tokens_per_minute=50))
    with pytest.raises(LimitError, match="tokens"):  # what is owed stays owed
        caller.begin()


def status(server, key):
    return server.get("/v1/models", Authorization=f"Bearer {key}")[0]


def until(holds):
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_file_is_read_again_and_a_bad_one_is_not(start, tmp_path):
    path = written(tmp_path, LIMITED)
    with start("--api-keys", path, "--log", "requests") as server:
        assert [status(server, key) for key in (ALICE, BOB, "none", "")] == [200, 200, 401, 401]
        assert server.get("/health")[0] == 200
        path.write_text(f"bob {BOB}\n")
        until(lambda: status(server, ALICE) == 401)
        path.write_text(f"alice {ALICE}\nnonsense\n")
        until(lambda: "line 2" in logged(server))
        path.unlink()
        until(lambda: "No such file" in logged(server))
        assert [status(server, key) for key in (ALICE, BOB)] == [401, 200]
        path.write_text(f"alice {ALICE}\n")
        until(lambda: status(server, ALICE) == 200)
        assert status(server, BOB) == 401
        if sys.platform != "win32":
            server.process.send_signal(signal.SIGHUP)
            until(lambda: logged(server).count("read 1 keys") == 3)
        code, errors = server.stop()
        assert code == 0
        assert "the keys stay as they were" in server.log + errors
        assert ALICE not in server.log + errors


def logged(server):
    """What a server has written to standard error so far."""
    errors, server.log = server.process.stderr.fileno(), getattr(server, "log", "")
    while select.select([errors], [], [], 0)[0]:
        server.log += os.read(errors, 4096).decode()
    return server.log


def test_limits_are_answered_as_openai_does(start, tmp_path, endless):
    path = written(tmp_path, LIMITED.replace("requests=2 tokens-per-minute=6000", "requests=1"))
    with start("--api-keys", path) as server, server.client(api_key=ALICE) as client:
        stream = client.completions.create(**endless, stream=True)
        next(iter(stream))
        with pytest.raises(openai.RateLimitError, match="1 at once") as refused:
            client.chat.completions.create(**BODY)
        assert refused.value.type == "requests"
        assert refused.value.code == "rate_limit_exceeded"
        assert refused.value.response.headers["retry-after"] == "1"
        with server.client(api_key=BOB) as other:
            assert other.chat.completions.create(**BODY).choices
        assert client.models.list().data  # only what makes the model work is limited
        stream.close()
        server.until(busy=0)
        path.write_text(f"alice {ALICE} tokens-per-minute=1\n")
        until(lambda: status(server, BOB) == 401)
        taken = client.chat.completions.create(**BODY).usage.total_tokens
        with pytest.raises(openai.RateLimitError, match="1 tokens a minute") as refused:
            client.chat.completions.create(**BODY)
        assert refused.value.type == "tokens"
        assert 60 < int(refused.value.response.headers["retry-after"]) <= 60 * taken + 60
        with pytest.raises(openai.RateLimitError):
            client.completions.create(model="nano", prompt="hello")
        metrics = server.get("/metrics", Authorization=f"Bearer {ALICE}")[2]
        assert 'rdlite_key_requests_total{key="alice",status="429"} 3.0' in metrics
        assert 'rdlite_key_requests_total{key="bob",status="200"} ' in metrics
        assert 'rdlite_key_tokens_total{key="alice",kind="new"}' in metrics
        assert ALICE not in metrics


@pytest.mark.parametrize("level", ["off", "requests", "texts"])
def test_the_log_has_texts_only_if_wanted(start, tmp_path, level):
    with start("--api-keys", written(tmp_path, LIMITED), "--log", level) as server:
        answer = server.post("/v1/chat/completions", BODY, Authorization=f"Bearer {ALICE}")
        usage = json.loads(answer[2])["usage"]
        server.post("/v1/chat/completions", BODY, Authorization="Bearer wrong key")
        server.post("/v1/chat/completions", BODY | {"stream": True}, Authorization=f"Bearer {BOB}")
        log = server.stop()[1]
    assert ALICE not in log
    assert "wrong key" not in log
    if level == "off":
        assert log == ""
        return
    took = f"{usage['prompt_tokens']} tokens read, {usage['completion_tokens']} written"
    lines = [line.split(" ") for line in log.splitlines() if " POST " in line]
    assert [(line[1], line[4]) for line in lines] == [
        ("alice", "200"),
        ("-", "401"),
        ("bob", "200"),
    ]
    assert took in log
    assert ("What is 48" in log) == ("124" in log) == (level == "texts")


def test_a_server_with_keys_by_file_may_be_reached_by_others(start, tmp_path):
    with start("--host", "0.0.0.0", "--api-keys", written(tmp_path, LIMITED)) as server:
        assert [status(server, key) for key in (ALICE, "none")] == [200, 401]
