"""What strangers and broken clients send: clear status codes, no crash, no leak."""

import http.client
import json
import signal
import socket
import threading
import time
from pathlib import Path

import openai
import pytest

CHAT = {"model": "nano", "messages": [{"role": "user", "content": "What is 48 + 76?"}]}
PATH = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def still_well(server):
    yield
    assert server.post(PATH, CHAT)[0] == 200


def message(text):
    return json.loads(text)["error"]["message"]


def raw_chat(server, *headers, body=b"", host=None, version="1.1"):
    """Send a request as it stands; returns the status and the rest."""
    lines = [f"POST {PATH} HTTP/{version}", f"Host: {host or f'127.0.0.1:{server.port}'}"]
    lines += ["Content-Type: application/json", "Connection: close", *headers, "", ""]
    answer = server.raw("\r\n".join(lines).encode() + body)
    return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "127.0.0.1.evil.example", "localhost.evil:80", "[::2]", "", "10.0.0.1"),
        *("evil.example@localhost", "localhost/evil.example", "localhost:80:80"),
    ],
)
def test_a_foreign_host_is_refused(server, host):
    body = json.dumps(CHAT).encode()
    answer = server.raw(
        f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    assert answer.startswith("HTTP/1.1 403 ")
    assert "--allow-host" in answer


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:1", "[::1]:8080"])
def test_names_of_this_machine_are_let_in(server, host):
    body = json.dumps(CHAT).encode()
    assert raw_chat(server, f"Content-Length: {len(body)}", body=body, host=host)[0] == 200


def test_pages_of_other_origins_are_refused(server):
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://localhost"):
        status, headers, text = server.post(PATH, CHAT, Origin=origin)
        assert status == 403
        assert "--cors-origin" in message(text)
        assert "access-control-allow-origin" not in headers
    assert server.post(PATH, CHAT, Origin=server.url)[0] == 200


def test_origins_that_were_named_may_call(start):
    with start("--cors-origin", "https://good.example") as server:
        status, headers, _ = server.post(PATH, CHAT, Origin="https://good.example")
        assert (status, headers["access-control-allow-origin"]) == (200, "https://good.example")
        assert server.post(PATH, CHAT, Origin="https://evil.example")[0] == 403
        preflight = (
            "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            "Origin: {}\r\nAccess-Control-Request-Method: POST\r\n"
            "Access-Control-Request-Headers: authorization,content-type,x-stainless-os\r\n\r\n"
        )
        allowed = server.raw(preflight.format("https://good.example").encode())
        assert allowed.startswith("HTTP/1.1 200")
        assert "access-control-allow-origin: https://good.example" in allowed.lower()
        other = server.raw(preflight.format("https://evil.example").encode())
        assert "access-control-allow-origin" not in other.lower()


@pytest.mark.parametrize(
    ("length", "status"),
    [("-1", 400), ("abc", 400), ("1e3", 400), ("9" * 30, 400), ("99999999999", 413), ("0", 400)],
)
def test_lengths_that_cannot_be(server, length, status):
    assert raw_chat(server, f"Content-Length: {length}")[0] == status


def test_a_body_without_a_length_is_none(server):
    status, text = raw_chat(server)
    assert status == 400
    assert message(text)


def test_a_body_that_never_ends_is_cut_off(server):
    """In chunks, so that no length tells beforehand."""
    chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
    with socket.create_connection((server.host, server.port), timeout=30) as connection:
        connection.sendall(
            f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        with pytest.raises((ConnectionError, TimeoutError)):  # it stops listening
            connection.sendall(chunk * 100)


def test_a_slow_body_and_slow_headers_are_given_up(monkeypatch):
    """The same code as in the process, with less patience."""
    import threading

    import uvicorn

    import rdlite
    from rdlite.config.depth import Depth
    from rdlite.config.sampling import Sampling
    from rdlite.serve import middleware as guard
    from rdlite.serve import server as process
    from rdlite.serve.app import create_app
    from rdlite.serve.settings import Settings

    monkeypatch.setattr(guard, "BODY_SECONDS", 0.5)
    monkeypatch.setattr(process, "HEADER_SECONDS", 0.5)
    with process.listen("127.0.0.1", 0) as listener, rdlite.load() as model:
        settings = Settings(depth=Depth(), sampling=Sampling())
        app = create_app(model, settings)
        config = uvicorn.Config(app, http=process._Protocol, lifespan="on", log_config=None)
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        address = listener.getsockname()
        try:
            with socket.create_connection(address, timeout=30) as connection:
                connection.sendall(
                    f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n"
                    "Content-Type: application/json\r\n\r\n{".encode()
                )
                answer = connection.recv(65536)
                assert answer.startswith(b"HTTP/1.1 408 ")
            for start in (b"", b"POST / HTTP/1.1\r\nHost: loc"):
                with socket.create_connection(address, timeout=30) as connection:
                    connection.sendall(start)
                    assert _received(connection) == b""
            with socket.create_connection(address, timeout=30) as connection:  # the second request
                request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
                connection.sendall(request + b"GET /hea")
                received = b""
                while part := _received(connection):
                    received += part
                assert received.count(b"HTTP/1.1 200") == 1
        finally:
            running.should_exit = True
            thread.join()


def _received(connection):
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'"text"',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"model": "nano", "messages": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"model": "nano", "model": "nano"}',
        b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "nano", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": 1' + b"0" * 5000 + b"}",
    ],
)
def test_broken_bodies(server, body):
    status, _, text = server.post(PATH, body)
    assert status in (400, 404)
    assert message(text)


NAMES = """temperature top_p top_k min_p repetition_penalty max_tokens n seed top_logprobs
presence_penalty depth.max_steps depth.threshold logit_bias.5""".split()
NUMBERS = ["1e308", "-1e308", "1e999", "NaN", "Infinity", "true", "false", '"1"', "[]", "{}"]
#: Of these -1 is a good one.
SIGNED = {"seed", "logit_bias.5", "depth.threshold", "presence_penalty"}


@pytest.mark.parametrize(
    ("name", "number"),
    [(name, number) for name in NAMES for number in NUMBERS]
    + [(name, "-1") for name in NAMES if name not in SIGNED],
)
def test_numbers_that_are_none(server, name, number):
    outer, _, inner = name.partition(".")
    value = f'{{"{inner}": {number}}}' if inner else number
    body = json.dumps(CHAT | {"logprobs": True})[:-1] + f', "{outer}": {value}}}'
    status, _, text = server.post(PATH, body.encode())
    assert status == 400, text
    assert outer in message(text) or "not JSON" in message(text)


def test_a_threshold_that_no_rule_has_is_refused(server):
    status, _, text = server.post(PATH, CHAT | {"depth": {"threshold": -1}})
    assert status == 400
    assert "threshold" in message(text)


@pytest.mark.parametrize(
    "body",
    [
        {f"k{number}": 1 for number in range(10_000)},
        CHAT | {"messages": [{str(number): 1 for number in range(50)}] * 2000},
        CHAT | {"logit_bias": dict.fromkeys(map(str, range(10_000)), "x")},
        CHAT | {"messages": [1] * 2000},
    ],
)
def test_a_body_with_countless_faults_is_given_up_at_the_first_ones(body):
    """Each fault is an object of its own; collecting half a million of them takes seconds."""
    from pydantic import ValidationError

    from rdlite.serve.requests.protocol import ChatRequest

    with pytest.raises(ValidationError) as problem:
        ChatRequest.model_validate(body)
    assert problem.value.error_count() < 50


def test_a_text_that_cannot_fit_is_not_encoded(server):
    for path, body in (
        ("/v1/completions", {"model": "nano", "prompt": "1" * 2**20}),
        (PATH, CHAT | {"messages": [{"role": "user", "content": "1" * 2**20}]}),
    ):
        status, _, text = server.post(path, body)
        assert status == 400
        assert "characters, the context is 1024 tokens" in message(text)
        assert json.loads(text)["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_other_methods(server, method):
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    connection.request(method, PATH)
    answer = connection.getresponse()
    assert answer.status == 405
    assert message(answer.read())
    connection.close()


def test_the_page_and_the_health_can_be_asked_for_their_heads(server):
    for path in ("/", "/health"):
        answer = server.raw(f"HEAD {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        assert answer.startswith("HTTP/1.1 200 ")
        assert answer.endswith("\r\n\r\n")


def test_a_body_that_is_not_called_json(server):
    status, _, text = server.post(PATH, CHAT, Content_Type="text/plain")
    assert status == 400
    assert "Content-Type: application/json" in message(text)


def test_paths_lead_nowhere_else(server):
    for path in ("/../page.js", "/page.js/../../x", "/%2e%2e/etc/passwd", "/v1", "//", "/docs"):
        answer = server.raw(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        assert answer.split()[1] in ("404", "405")


def test_what_is_no_http(server):
    assert server.raw(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n").startswith("HTTP/1.1 400")
    long = b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n"
    assert server.raw(long).startswith(("HTTP/1.1 400", "HTTP/1.1 431"))


def test_a_hundred_clients_at_once(server):
    """Two are answered at a time, sixteen wait; the others are told when to come back."""
    statuses, lock, barrier = [], threading.Lock(), threading.Barrier(100, timeout=60)

    def run():
        barrier.wait()
        status, headers, _ = server.post(PATH, CHAT | {"stream": True})
        with lock:
            statuses.append((status, headers.get("retry-after")))

    threads = [threading.Thread(target=run) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == 100
    assert {status for status, _ in statuses} <= {200, 429}
    assert sum(status == 200 for status, _ in statuses) >= 18
    assert all(int(after) >= 1 for status, after in statuses if status == 429)
    health = server.health()
    assert (health["status"], health["busy"], health["waiting"]) == ("ok", 0, 0)


def resident_kib(process):
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_thousand_requests_leak_nothing(start):
    with start("--prefix-cache", "32M") as server:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=60)

        def ask(number):
            body = CHAT | {"max_tokens": 2, "stream": number % 2 == 0, "logprobs": True}
            body["messages"] = [{"role": "user", "content": f"What is {number} + 76?"}]
            if number % 5 == 0:
                body["depth"] = {"changes": True}
            if number % 10 == 9:
                body["n"] = 9  # refused
            headers = {"Content-Type": "application/json"}
            connection.request("POST", PATH, json.dumps(body), headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == (400 if number % 10 == 9 else 200)

        for number in range(300):
            ask(number)
        before = resident_kib(server.process)
        for number in range(1000):
            ask(number)
        after = resident_kib(server.process)
        connection.close()
        assert after <= 1.05 * before, f"{before} KiB became {after} KiB"


def test_the_end_waits_for_answers_that_run(start, endless):
    some = {"max_tokens": 12, "extra_body": {"depth": {"max_steps": 64, "exit": "off"}}}
    with start() as server, server.client() as client:
        stream = iter(client.completions.create(**endless | some, stream=True))
        next(stream)
        server.process.terminate()
        assert list(stream)[-1].choices[0].finish_reason == "length"
        assert server.stop() == (0, "")


def test_the_end_does_not_wait_for_ever(start, endless):
    with start("--threads", 1) as server, server.client() as client:
        stream = iter(client.completions.create(**endless, stream=True))
        next(stream)
        server.process.send_signal(signal.SIGINT)
        clock = time.monotonic()
        with pytest.raises(openai.APIError, match="the server is shutting down"):
            list(stream)
        assert server.stop() == (0, "")
        assert time.monotonic() - clock < 30


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_what_runs(start, endless, number):
    with start() as server, server.client() as client:
        stream = iter(client.completions.create(**endless, stream=True))
        next(stream)
        server.process.send_signal(number)
        server.until_deaf()
        server.process.send_signal(number)
        with pytest.raises(openai.APIError, match="the server is shutting down"):
            list(stream)
        assert server.process.communicate(timeout=60)[1] == ""
        assert server.process.returncode == 0


def test_a_client_that_never_reads_does_not_hold_up_the_end(start):
    with start() as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((server.host, server.port))
        connection.settimeout(2)
        with pytest.raises(TimeoutError):  # the server stops reading, since nobody reads it
            connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10**6)
        server.process.terminate()
        server.until_deaf()
        assert server.stop() == (0, "")
