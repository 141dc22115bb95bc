"""The keys that are valid now: read from a file, and read again when it changes."""

import asyncio
import contextlib
import hashlib
import hmac
import logging
from collections.abc import Iterable
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from rdlite.errors import InputError
from rdlite.serve.access.caller import Caller
from rdlite.serve.access.keys import KEY_CHARACTERS, OWN_NAME, Key, own_key, read_keys

#: Seconds from one look at the file to the next.
INTERVAL_S = 1.0
log = logging.getLogger("rdlite.serve")


class Keyring:
    """Finds whose key a request has. Used on the event loop alone."""

    def __init__(self, api_key: str | None, path: Path | None) -> None:
        """Read the file; raises InputError if it is none, like `read_keys`.

        Args:
            api_key: a key besides those of the file; without both, none is asked for.
            path: of the file.
        """
        self._own = [] if api_key is None else [own_key(api_key)]
        self._path = path
        self._callers: dict[str, Caller] = {}
        self._looked = asyncio.Event()
        self._signature = None if path is None else _signature(path)
        self._set(() if path is None else read_keys(path))

    @property
    def required(self) -> bool:
        """Whether requests need a key."""
        return bool(self._callers)

    def find(self, given: str) -> Caller | None:
        """Return whose key it is; takes as long for any that is wrong."""
        digest = hashlib.sha256(given.encode(errors="replace")).digest()
        found = None
        for caller in self._callers.values():
            if hmac.compare_digest(digest, caller.key.digest):
                found = caller
        return found if len(given) <= KEY_CHARACTERS[1] else None

    def look(self) -> None:
        """Read the file now, changed or not; for signals."""
        self._signature = None
        self._looked.set()

    async def watch(self) -> None:
        """Read the file again whenever it has changed; never returns.

        While what is there now is no file of keys, those of before stay valid.
        """
        while self._path is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL_S):
                    await self._looked.wait()
            self._looked.clear()
            signature = await run_in_threadpool(_signature, self._path)
            if signature == self._signature:
                continue
            self._signature = signature
            try:
                keys = await run_in_threadpool(read_keys, self._path)
                self._set(keys)
            except InputError as problem:
                log.warning("the keys stay as they were: %s", problem)
            else:
                log.info("read %d keys from %s", len(keys), self._path)

    def _set(self, keys: Iterable[Key]) -> None:
        keys = [*self._own, *keys]
        if len({key.name for key in keys}) < len(keys):
            raise InputError(
                f"{self._path}: the name {OWN_NAME!r} is that of the key from --api-key "
                "or RDLITE_API_KEY; call it otherwise, or start without that key"
            )
        before, self._callers = self._callers, {}
        for key in keys:
            caller = before.get(key.name)
            if caller is None:
                caller = Caller(key)
            else:
                caller.change(key)
            self._callers[key.name] = caller


def _signature(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file does; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
