"""A web page of this machine alone: files, answers with security headers, and a server on 127.0.0.1."""

import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.artifacts.http_server import SECURITY_HEADERS, bind_socket

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

HOST, NAMES = "127.0.0.1", ["127.0.0.1", "localhost"]
"""Address, and accepted Host headers (against DNS rebinding)."""
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
}  # fmt: skip


def page_app(folder: str, names: Mapping[str, str], routes: "list[Route]") -> "Starlette":
    """An application with the files `names`, by address, of a folder beside this file, and `routes`."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.routing import Route

    files = [Route(address, _file(Path(__file__).parent / folder / name)) for address, name in names.items()]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=NAMES, www_redirect=False)
    return Starlette(routes=[*files, *routes], middleware=[hosts])


def send(content: bytes, kind: str, status: int = 200) -> "Response":
    """A response with security headers that no cache keeps."""
    from starlette.responses import Response

    return Response(content, status, headers={"Content-Type": kind, "Cache-Control": "no-store", **SECURITY_HEADERS})


def send_json(value: Any, status: int = 200) -> "Response":
    return send(json.dumps(value, allow_nan=False).encode(), "application/json", status)


def _file(path: Path) -> Callable[["Request"], Awaitable["Response"]]:
    content = path.read_bytes()

    async def send_file(request: "Request") -> "Response":
        return send(content, MEDIA_TYPES[path.suffix])

    return send_file


def serve_page(app: "Starlette", port: int, announce: Callable[[str], str], suffix: str = "") -> None:
    """Serve until interrupted, or until the application sets `app.state.server.should_exit`.

    Args:
        announce: the line for the user, from the address of the page, which `suffix` ends.
    Raises UserError when the port is not available.
    """
    import uvicorn

    with bind_socket(HOST, port) as listener:
        print(announce(f"http://{HOST}:{listener.getsockname()[1]}/{suffix}"), file=sys.stderr, flush=True)
        config = uvicorn.Config(app, log_level="warning", server_header=False, ws="none", lifespan="off")
        app.state.server = uvicorn.Server(config)
        with suppress(KeyboardInterrupt):  # uvicorn raises it again after an orderly shutdown
            app.state.server.run(sockets=[listener])
