"""Where a repository's files come from: the hub, or what its library has in its cache.

Needs the extra `[hub]`. What goes wrong there becomes a HubError of one line.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rdlite.errors import HubError, InputError, RuntimeFailure
from rdlite.utils.files import hash_file
from rdlite.utils.install import install_hint
from rdlite.version import __version__

TIMEOUT = 30  # seconds without a byte
PIECE_BYTES = 2**20
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Interrupted(HubError):
    """The network failed; asking again may help."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository.

    Attributes:
        name: its path in the repository.
        size: in bytes.
        digest: SHA-256, or SHA-1 as git computes it, as hexadecimal digits.
    """

    name: str
    size: int
    digest: str


class Source(Protocol):
    """The files of one commit of a repository."""

    repo: str
    commit: str
    files: dict[str, HubFile]

    def read(self, file: HubFile, offset: int) -> Iterator[bytes]:
        """Yield a file from a byte on; raises Interrupted where it makes sense to go on later."""
        ...


def check_repo(repo: str) -> None:
    """Raise InputError for what cannot be a repository's name.

    RuntimeFailure unless huggingface_hub is installed, and new enough.
    """
    try:
        from huggingface_hub import __version__
    except ImportError:
        __version__ = "0"
    if int(__version__.partition(".")[0]) < 1:
        raise RuntimeFailure(f"downloads need huggingface_hub 1 or newer: {install_hint('hub')}")
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise InputError(f"REPO must be a name like owner/model, got {repo!r:.100}") from None


class Hub:
    """A repository on the hub; files that the cache of huggingface_hub has are read from there."""

    def __init__(self, repo: str, revision: str) -> None:
        from huggingface_hub import HfApi

        api = HfApi(library_name="rdlite", library_version=__version__)
        self._endpoint, self.repo, self._revision = api.endpoint, repo, revision
        with self._errors():
            info = api.model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT)
        if not info.sha or info.siblings is None:
            raise HubError(f"{self._endpoint} does not say which files {repo} has")
        self.repo, self.commit = info.id, info.sha
        self.files = {}
        for entry in info.siblings:
            digest = entry.lfs.sha256 if entry.lfs else entry.blob_id
            if entry.size is not None and digest and _DIGEST.fullmatch(digest):
                self.files[entry.rfilename] = HubFile(entry.rfilename, entry.size, digest)

    def read(self, file: HubFile, offset: int) -> Iterator[bytes]:
        """Yield a file from a byte on."""
        from huggingface_hub import hf_hub_url, try_to_load_from_cache
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        cached = try_to_load_from_cache(self.repo, file.name, revision=self.commit)
        if isinstance(cached, str):
            yield from _read_file(Path(cached), offset)
            return
        url = hf_hub_url(self.repo, file.name, revision=self.commit, endpoint=self._endpoint)
        headers = build_hf_headers(library_name="rdlite", library_version=__version__)
        headers["Accept-Encoding"] = "identity"  # or an offset would count compressed bytes
        if offset:
            headers["Range"] = f"bytes={offset}-"
        with (
            self._errors(),
            get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response,
        ):
            if response.status_code >= 400:
                response.read()
            hf_raise_for_status(response)
            skip = 0 if response.status_code == 206 else offset  # some servers send all again
            for piece in response.iter_bytes():
                yield piece[skip:]
                skip -= min(skip, len(piece))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Say in one line what the hub or the way to it refuses."""
        from huggingface_hub import errors

        # What the HTTP library raises; which one that is depends on huggingface_hub's version.
        http_error: Any = errors.HfHubHTTPError.__mro__[1]
        try:
            yield
        except errors.GatedRepoError:
            raise HubError(
                f"{self.repo} is gated: accept its terms at {self._endpoint}/{self.repo}, then "
                "'hf auth login'"
            ) from None
        except errors.RepositoryNotFoundError:
            raise HubError(
                f"{self._endpoint} has no model {self.repo!r}, or it is private: check the name, "
                "or 'hf auth login'"
            ) from None
        except errors.RevisionNotFoundError:
            raise HubError(
                f"{self.repo} has no revision {self._revision!r}; give a branch, tag or commit"
            ) from None
        except errors.OfflineModeIsEnabled:
            raise HubError(
                "HF_HUB_OFFLINE forbids the network; unset it, or use --offline and the files here"
            ) from None
        except errors.HfHubHTTPError as problem:
            status = problem.response.status_code
            kind = Interrupted if status in (408, 429) or status >= 500 else HubError
            raise kind(f"{self._endpoint} answers {status} for {self.repo}; try later") from None
        except http_error as problem:
            raise Interrupted(
                f"cannot reach {self._endpoint} ({str(problem) or type(problem).__name__}); check "
                "the network"
            ) from None


class HubCache:
    """A repository as huggingface_hub's cache has it; the network is left alone."""

    def __init__(self, repo: str, revision: str) -> None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(repo, "config.json", revision=revision)
        if not isinstance(found, str):
            raise HubError(
                f"neither the folder nor huggingface_hub's cache has {repo} at {revision!r}; "
                "run it without --offline"
            )
        self._folder = Path(found).parent
        self.repo, self.commit = repo, self._folder.name
        self.files = {
            path.name: HubFile(path.name, path.stat().st_size, _digest_in_cache(path))
            for path in self._folder.iterdir()
            if path.is_file()
        }

    def read(self, file: HubFile, offset: int) -> Iterator[bytes]:
        """Yield a file from a byte on."""
        return _read_file(self._folder / file.name, offset)


def _digest_in_cache(path: Path) -> str:
    """Return a cached file's digest: the name of what it links to, where links are used."""
    name = path.resolve().name
    return name if _DIGEST.fullmatch(name) else hash_file(path)


def _read_file(path: Path, offset: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(PIECE_BYTES):
            yield piece
