"""The files of the chat page, which are all that the server sends beside answers."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).parent / "chat_page"
CONTENT_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

PAGE_FILES = {
    "/" if file.name == "index.html" else f"/{file.relative_to(FOLDER).as_posix()}": file
    for file in sorted(FOLDER.rglob("*"))
    if file.suffix in CONTENT_TYPES
}
"""Address -> file, of the page and of its libraries in `vendor`."""


def respond_with(file: Path) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that sends a file, read once."""
    content = file.read_bytes()
    headers = {"Content-Type": f"{CONTENT_TYPES[file.suffix]}; charset=utf-8", "Cache-Control": "no-cache"}

    async def respond(request: Request) -> Response:
        return Response(content, headers=headers)

    return respond
