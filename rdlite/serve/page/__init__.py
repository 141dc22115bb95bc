"""The page at `/`: a few files without anything from elsewhere."""

from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import PurePath

from fastapi import FastAPI
from starlette.responses import Response

_NAMES = (
    *("page.css", "fields.css", "chat.css"),
    *("page.js", "api.js", "curve.js", "levels.js", "lock.js", "settings.js", "turn.js"),
)
_TYPES = {".css": "text/css", ".js": "text/javascript"}
FILES = {"/": ("index.html", "text/html")} | {
    f"/{name}": (name, _TYPES[PurePath(name).suffix]) for name in _NAMES
}
#: The page loads nothing from other places, and nobody may put it in a frame.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def add_page(app: FastAPI) -> None:
    """Serve the page's files."""
    for path, (name, kind) in FILES.items():
        content = (resources.files(__name__) / name).read_bytes()
        app.add_api_route(
            path, _file(content, kind), methods=["GET", "HEAD"], include_in_schema=False
        )


def _file(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def file() -> Response:
        return Response(content, headers=HEADERS, media_type=kind)

    return file
