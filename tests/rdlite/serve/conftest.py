"""Real server processes with nano, as users start them."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import openai
import pytest

import rdlite

INVALID = "WARNING: Invalid HTTP request received.\n"


PATIENCE = 60  # seconds after which a test gives up; none measures time


class Server:
    """`rdlite serve` in a process of its own."""

    def __init__(self, *options, **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rdlite", "serve", "--port", "0", *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
        )
        line = self.process.stdout.readline()
        found = re.search(r"http://(\S+):(\d+) ", line)
        assert found, line + self.process.stderr.read()
        self.host, self.port = found[1], int(found[2])
        self.url = f"http://{found[1]}:{found[2]}"

    def client(self, **options):
        options = {"api_key": "none", "max_retries": 0, "timeout": PATIENCE} | options
        return openai.OpenAI(base_url=self.url + "/v1", **options)

    def get(self, path, **headers):
        """Returns status, headers and text; errors of the server too."""
        return self.post(path, None, **headers)

    def post(self, path, data, **headers):
        if data is not None and not isinstance(data, bytes):
            data = json.dumps(data).encode()
        headers = {"Content-Type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, answer.headers, answer.read().decode()
        except urllib.error.HTTPError as problem:
            with problem:
                return problem.code, problem.headers, problem.read().decode()

    def raw(self, data, timeout=PATIENCE):
        """Send bytes, and return all that comes back until the server closes."""
        with socket.create_connection((self.host, self.port), timeout=timeout) as connection:
            connection.sendall(data)
            parts = []
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(65536):
                    parts.append(part)
        return b"".join(parts).decode()

    def health(self):
        return json.loads(self.get("/health")[2])

    def until(self, **numbers):
        """Return when its health says these of how many are busy or wait."""
        self._until(lambda: numbers.items() <= self.health().items(), numbers)

    def until_deaf(self):
        """Return when it takes no more connections."""

        def refused():
            with socket.socket() as connection:
                return connection.connect_ex((self.host, self.port)) != 0

        self._until(refused, "end")

    def _until(self, holds, wanted):
        end = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < end, f"no {wanted}"
            time.sleep(0.01)

    def stop(self, number=signal.SIGTERM):
        """Ask it to end; returns its exit code and what it wrote to standard error."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, errors.replace(INVALID, "")


@pytest.fixture(scope="session")
def start():
    """Starts servers that are ended at the end of a `with`."""

    @contextlib.contextmanager
    def started(*options, **environment):
        server = Server(*options, **environment)
        try:
            yield server
        finally:
            if server.process.poll() is None:
                code, errors = server.stop()
                assert (code, errors) == (0, "")

    return started


@pytest.fixture(scope="session")
def server(start):
    with start() as running:
        yield running


@pytest.fixture(scope="session")
def nano():
    with rdlite.load(threads=1) as model:
        yield model


@pytest.fixture(scope="session")
def endless(nano):
    """Parameters of a completion that takes long: deep, and stop tokens cannot be chosen."""
    stop_ids = nano.generation_config.stop_ids
    return {
        "model": "nano",
        "prompt": "hello",
        "max_tokens": 900,
        "logit_bias": {str(id): -1000 for id in stop_ids},
        "extra_body": {"depth": {"max_steps": 512, "exit": "off"}},
    }
