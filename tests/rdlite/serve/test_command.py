"""`rdlite serve` before it serves: what it refuses, and how it says so."""

import socket
import sys

import pytest
from click.testing import CliRunner

from rdlite.cli.main import main
from rdlite.serve.server import listen
from rdlite.utils.install import install_hint


def complaint(*arguments, **environment):
    result = CliRunner().invoke(main, ["serve", *arguments], env=environment)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5"])
def test_addresses_that_others_reach_need_a_key(host):
    said = complaint("--host", host)
    assert said.startswith(f"error: {host} can be reached from other machines")
    assert "RDLITE_API_KEY" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "example.org"], "host must be an IP address of this machine or localhost"),
        (["--api-key", "short"], "8 to 512 printable"),
        (["--api-key", "käse käse käse"], "8 to 512 printable"),
        (
            ["--allow-host", "box.local:8080"],
            "without a port, like box.local, got 'box.local:8080'",
        ),
        (["--allow-host", "http://box.local"], "a host must be a name"),
        (["--cors-origin", "*"], "an origin must be as browsers write it"),
        (["--cors-origin", "https://example.org/"], "without a path"),
        (["--cors-origin", "null"], "an origin must be"),
        (["--prefix-cache", "much"], "'much' must be a size like 512M"),
        (["--slots", "0"], "'--slots'"),
        (["--port", "65536"], "'--port'"),
        (["--exit", "sometimes", "--port", "0"], "exit must be one of"),
        (["nowhere", "--port", "0"], "nowhere"),
        (["--cache-share", "2", "--speculate", "auto", "--port", "0"], "speculate needs a cache"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(arguments, said):
    assert said in complaint(*arguments)


def test_a_port_that_is_taken():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        said = complaint("--port", str(port))
    assert f"cannot listen at 127.0.0.1 port {port}" in said
    assert "give another --port" in said


def test_small_packets_are_sent_at_once():
    """asyncio sets TCP_NODELAY only on sockets whose protocol is named; else chunks take 40 ms."""
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_missing_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("rdlite.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert install_hint("serve") in complaint("--port", "0")


def test_it_can_be_reached_by_address_and_by_the_names_it_was_given(start):
    with start("--host", "0.0.0.0", "--allow-host", "Box.local", RDLITE_API_KEY="long enough") as s:
        for host, status in (("10.1.2.3", 401), ("box.local", 401), ("evil.example", 403)):
            answer = s.raw(
                f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
            )
            assert int(answer.split()[1]) == status
        assert s.get("/v1/models", Authorization="Bearer long enough")[0] == 200
        assert s.get("/v1/models", Authorization="Bearer long enoug")[0] == 401
        assert s.get("/v1/models", Authorization="Basic long enough")[0] == 401


def test_what_a_request_does_not_say_is_as_the_command_has_it(start):
    question = {"role": "user", "content": "What is 48 + 76?"}
    body = {"model": "nano", "messages": [question]}
    options = ("--steps", 5, "--exit", "off", "--max-tokens", 2, "--slots", 1, "--speculate", "2,2")
    import json

    with start(*options) as server:
        answer = json.loads(server.post("/v1/chat/completions", body)[2])
        (choice,) = answer["choices"]
        assert choice["depth"]["steps"] == [5, 5]
        assert choice["finish_reason"] == "length"
        assert server.health()["slots"] == 1
        told = {"depth": {"changes": True, "max_steps": 3}}
        answer = json.loads(server.post("/v1/chat/completions", body | told)[2])
        assert answer["choices"][0]["depth"]["steps"] == [3, 3]
