"""What a server was started with."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rdlite.api.history import History
from rdlite.config.depth import Depth
from rdlite.config.parallel import Parallel
from rdlite.config.sampling import Sampling
from rdlite.config.speculation import Speculate
from rdlite.errors import InputError
from rdlite.serve.access.keys import check_key

HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*|[0-9a-f:]*:[0-9a-f:.]*", re.IGNORECASE)
#: As browsers write it: no path, and what is not "null", which any page can have.
ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://[a-z0-9_.-]+(:\d{1,5})?|[a-z]+://\[[0-9a-f:.]+\](:\d{1,5})?"
)
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where to listen, whom to answer, and how.

    Attributes:
        host: address to listen at; any but a loopback one needs a key.
        api_key: that clients must send; without it and `api_keys`, none is asked for.
        api_keys: file of further keys, read again when it changes.
        hosts: further names by which clients may call this server.
        origins: of pages elsewhere that may call it from a browser, like "https://example.org".
        slots: answers that are generated at once.
        waiting: requests that may wait beside them.
        prefix_bytes: memory for texts that were read, kept for requests that begin like them.
        max_tokens: of a chat's answer, where the request does not say.
        depth: how deep to think, where the request does not say.
        sampling: likewise.
        seed: of initial states, likewise.
        speculate: whether to draft tokens.
        lenient: drop parameters that are unknown, with a warning, rather than refuse them.
        log: "off": only what goes wrong; "requests": a line for each; "texts": their bodies too.
        template_variables: of the chat template's own, where the request does not say.
        sampler: the parallel sampler, where the request does not say; None: token by token.
        history: how long a conversation may be before its oldest turns are left out, likewise.

    Raises InputError for an address that is none, or that needs a key and has none, and for hosts
    and origins that no client can have.
    """

    host: str = "127.0.0.1"
    api_key: str | None = None
    api_keys: Path | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    slots: int = 2
    waiting: int = 16
    prefix_bytes: int = 2**30
    max_tokens: int = 1024
    depth: Depth
    sampling: Sampling
    seed: int = 0
    speculate: Speculate = None
    lenient: bool = False
    log: Literal["off", "requests", "texts"] = "off"
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    sampler: Parallel | None = None
    history: History = "trained"

    def __post_init__(self) -> None:
        """Check the address, the key and the names."""
        check_listening(self.host, self.api_key, self.api_keys)
        check_names(self.hosts, self.origins)

    def knows(self, name: str) -> bool:
        """Whether clients may call this server by a name.

        One that listens at an address of the network may be called by any address: a page that
        wants to reach it through a name of its own (DNS rebinding) has to send that name.
        """
        if name in (*LOCAL_NAMES, self.host, *(host.lower() for host in self.hosts)):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.host not in LOCAL_NAMES


def check_listening(host: str, api_key: str | None, api_keys: Path | None = None) -> None:
    """Raise InputError for an address that is none, or that needs a key and has none."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise InputError(
            f"host must be an IP address of this machine or localhost, got {host!r:.60}"
        ) from None
    if api_key is not None:
        check_key(api_key)
    if not address.is_loopback and api_key is None and api_keys is None:
        raise InputError(
            f"{host} can be reached from other machines, so it needs an API key: set "
            "RDLITE_API_KEY, give --api-keys FILE, or listen at 127.0.0.1"
        )


def check_names(hosts: tuple[str, ...], origins: tuple[str, ...]) -> None:
    """Raise InputError for a host or an origin that would never be met."""
    for host in hosts:
        if not HOST.fullmatch(host):
            raise InputError(
                f"a host must be a name or an address without a port, like box.local, got "
                f"{host!r:.60}"
            )
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise InputError(
                "an origin must be as browsers write it, in small letters and without a path, "
                f"like https://example.org, got {origin!r:.60}"
            )
