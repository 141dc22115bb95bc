"""Brings one file of a repository into a folder, through broken connections and interruptions."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from rdlite.errors import HubError
from rdlite.hub.sources import HubFile, Interrupted, Source

PARTS = ".pull"
#: How often a broken connection is tried again without a byte more, and the first pause before.
RETRIES = 3
PAUSE = 1.0


def part_name(name: str, digest: str) -> str:
    """Return what a file is called while some of it is missing."""
    return f"{name}.{digest[:16]}.part"


class Fetcher:
    """Brings files into a folder, each whole or as a part that the next try goes on with."""

    def __init__(self, source: Source, folder: Path) -> None:
        self._source = source
        self._folder = folder
        self.advance: Callable[[int], None] = lambda count: None

    def __call__(self, file: HubFile) -> None:
        """Fetch a file, or what is missing of it; raises HubError, OSError."""
        target = self._folder / file.name
        if target.exists():
            self.advance(file.size)
            return
        part = self._folder / PARTS / part_name(file.name, file.digest)
        digest = hashlib.sha256()
        if len(file.digest) == 40:  # git's: it hashes a header too
            digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
        with part.open("a+b") as out:
            out.seek(0)
            have = 0
            while piece := out.read(min(2**20, file.size - have)):
                digest.update(piece)
                have += len(piece)
            self.advance(have)

            def take(piece: bytes) -> None:
                out.write(piece)
                digest.update(piece)

            self._receive(file, have, take)
            out.flush()
            os.fsync(out.fileno())
        if digest.hexdigest() != file.digest:
            part.unlink()
            raise HubError(
                f"{file.name} arrived damaged: its hash is not the one that the hub gives; it was "
                "deleted, run the same command again"
            )
        part.replace(target)

    def _receive(self, file: HubFile, have: int, take: Callable[[bytes], object]) -> None:
        """Pass on the bytes after the first `have`, through as many broken connections as needed.

        Raises Interrupted when the network stays away; what was taken is a start for next time.
        """
        failures = 0
        while have < file.size:
            problem = "the connection ended too soon"
            try:
                for piece in self._source.read(file, have):
                    piece = piece[: file.size - have]
                    take(piece)
                    have += len(piece)
                    self.advance(len(piece))
                    failures = 0 if piece else failures
            except Interrupted as why:
                problem = str(why)
            if have < file.size:
                failures += 1
                if failures > RETRIES:
                    raise Interrupted(
                        f"{file.name} stopped at {have:,} of {file.size:,} bytes: {problem}; the "
                        "same command continues from there"
                    )
                time.sleep(PAUSE * 2 ** (failures - 1))
