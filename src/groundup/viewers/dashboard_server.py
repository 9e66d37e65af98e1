"""The curves as a live page: a small server on this machine alone, which reads the files again when the page asks."""

import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.security_headers import SECURITY_HEADERS
from groundup.artifacts.sockets import bind_socket
from groundup.viewers.dashboard import build_dashboard
from groundup.viewers.run_reader import RunReader

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

HOST, NAMES = "127.0.0.1", ["127.0.0.1", "localhost"]
"""Where it listens, and the only names it answers to: a page on the web can make its own name point here."""
PAGE_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/watch.css": ("watch.css", "text/css; charset=utf-8"),
    "/watch.js": ("watch.js", "text/javascript; charset=utf-8"),
}
MAX_POINTS = 1200
"""Of each curve: about one for each dot of a wide screen."""


def serve_dashboard(journals: RunReader, port: int) -> None:
    """Serve the page until interrupted. Raises UserError when the port cannot be had."""
    import uvicorn

    app = create_dashboard_app(journals)
    with bind_socket(HOST, port) as listener:
        address = f"http://{HOST}:{listener.getsockname()[1]}/"
        print(f"{journals.path}: live page {address} · Ctrl-C ends", file=sys.stderr)
        config = uvicorn.Config(app, log_level="warning", server_header=False, ws="none", lifespan="off")
        with suppress(KeyboardInterrupt):  # which uvicorn raises again when it has closed everything in order
            uvicorn.Server(config).run(sockets=[listener])


def create_dashboard_app(journals: RunReader) -> "Starlette":
    """The page, and at /view what it draws. It asks with `since`, and is sent the curves only when they changed."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import Response
    from starlette.routing import Route

    began = f"{time.time():.3f}"
    by_stage: dict[str | None, RunReader] = {journals.requested_stage: journals}

    def answer(content: bytes, kind: str, status: int = 200) -> Response:
        return Response(
            content, status, headers={"Content-Type": kind, "Cache-Control": "no-store", **SECURITY_HEADERS}
        )

    def file(name: str, kind: str) -> Callable[["Request"], Awaitable[Response]]:
        content = (Path(__file__).parent / "dashboard_page" / name).read_bytes()

        async def send(request: "Request") -> Response:
            return answer(content, kind)

        return send

    async def send_view(request: "Request") -> Response:
        stage = request.query_params.get("stage") or journals.requested_stage
        try:
            if stage not in by_stage and stage in journals.trainings():
                by_stage[stage] = RunReader(journals.path, stage)
            seen = by_stage.get(stage, journals)
            seen.refresh()
            version = f"{began} {seen.current_stage()} {seen.version}"
            found: dict[str, Any] = asdict(build_dashboard(seen, MAX_POINTS))
        except UserError as error:
            return answer(json.dumps({"error": str(error)}).encode(), "application/json", 503)
        found |= {"version": version, "stages": list(seen.trainings()), "stage": seen.current_stage()}
        if request.query_params.get("since") == version:
            del found["panels"]
        return answer(json.dumps(found, allow_nan=False).encode(), "application/json")

    routes = [
        *(Route(address, file(*told)) for address, told in PAGE_FILES.items()),
        Route("/view", send_view),
    ]
    return Starlette(
        routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=NAMES, www_redirect=False)]
    )
