"""A small server on this machine that speaks the hub's API as far as pulling needs it."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

LARGE = 10_000  # bytes; what is larger is stored as with Git LFS, under its SHA-256


class HubServer(ThreadingHTTPServer):
    """Serves `repos`: {name: {path: bytes}}, each with one commit that "main" points to.

    Attributes:
        requests: (path, Range header) of every request, in order.
        cuts: how many bytes of a body the next answers send before the connection breaks.
        gated: repositories whose files need a permission that nobody has.
        ranges: False for a server that sends every file whole.
        stall: after how many bytes of a long body nothing more comes; `stalled` is then set.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos, self.requests, self.cuts, self.gated = {}, [], [], set()
        self.ranges = True
        self.stall, self.stalled = None, threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self, name):
        """The Range headers of the requests for a file."""
        return [bytes_ for path, bytes_ in self.requests if path.endswith("/" + name)]

    def handle_error(self, request, client_address):
        pass  # clients that leave are part of the tests


def commit_of(files):
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


@pytest.fixture
def hub(text_checkpoint, tmp_path, monkeypatch):
    """A hub with a checkpoint and much beside it that must not be fetched."""
    monkeypatch.chdir(tmp_path)
    files = {path.name: path.read_bytes() for path in text_checkpoint.iterdir()}
    unwanted = ("modeling.py", "pytorch_model.bin", "onnx/model.safetensors", ".gitattributes")
    with HubServer() as server:
        server.repos["tiny/looped"] = files | dict.fromkeys(unwanted, b"no")
        # huggingface_hub reads the environment once, and may be loaded already
        constants = "huggingface_hub.constants."
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants + "ENDPOINT", server.url)
        monkeypatch.setattr(constants + "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants + "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("rdlite.hub.download.PAUSE", 0)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _digest(data):
    if len(data) > LARGE:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((path, self.headers.get("Range")))
        if found := re.fullmatch(r"/api/models/(.+)/revision/(.+)", path):
            self._list(*found.groups())
        elif found := re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", path):
            self._file(*found.groups())
        else:
            self._refuse(404, "EntryNotFound")

    def _list(self, repo, revision):
        files = self.server.repos.get(repo)
        if files is None:
            return self._refuse(401, "RepoNotFound")
        if revision not in ("main", commit_of(files)):
            return self._refuse(404, "RevisionNotFound")
        siblings = []
        for name, data in files.items():
            entry = {"rfilename": name, "size": len(data), "blobId": _digest(data)}
            if len(data) > LARGE:
                entry["blobId"] = "0" * 40  # of the pointer that stands for it
                entry["lfs"] = {"sha256": _digest(data), "size": len(data), "pointerSize": 100}
            siblings.append(entry)
        body = {"id": repo, "modelId": repo, "sha": commit_of(files), "siblings": siblings}
        return self._send(200, json.dumps(body).encode())

    def _file(self, repo, commit, name):
        files = self.server.repos.get(repo, {})
        if repo in self.server.gated:
            return self._refuse(403, "GatedRepo")
        if name not in files or commit not in ("main", commit_of(files)):
            return self._refuse(404, "EntryNotFound")
        data, status = files[name], 200
        headers = {"X-Repo-Commit": commit_of(files), "ETag": _digest(data)}
        wanted = self.headers.get("Range")
        if wanted and self.server.ranges:
            data, status = data[int(wanted.removeprefix("bytes=").removesuffix("-")) :], 206
        return self._send(status, data, headers)

    do_HEAD = do_GET

    def _refuse(self, status, code):
        self._send(status, b"", {"X-Error-Code": code})

    def _send(self, status, data, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if status < 300 and "resolve" in self.path and self.server.cuts:
            data = data[: self.server.cuts.pop(0)]
            self.close_connection = True
        elif self.server.stall and len(data) > LARGE and self.server.stall < len(data):
            self.wfile.write(data[: self.server.stall])
            self.server.stalled.set()
            self.rfile.read(1)  # until the client leaves
            return
        self.wfile.write(data)
