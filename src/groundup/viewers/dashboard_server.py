"""Training dashboard as a web page, served on this machine only; each request reads the new records."""

import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.http_server import SECURITY_HEADERS, bind_socket
from groundup.viewers.dashboard import build_dashboard
from groundup.viewers.run_reader import RunReader

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

HOST, NAMES = "127.0.0.1", ["127.0.0.1", "localhost"]
"""Address, and accepted Host headers (against DNS rebinding)."""
PAGE_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/watch.css": ("watch.css", "text/css; charset=utf-8"),
    "/watch.js": ("watch.js", "text/javascript; charset=utf-8"),
}
MAX_POINTS = 1200
"""Points per curve, about one per pixel of a wide screen."""


def serve_dashboard(reader: RunReader, port: int) -> None:
    """Serve the page until interrupted. Raises UserError when the port is not available."""
    import uvicorn

    app = create_dashboard_app(reader)
    with bind_socket(HOST, port) as listener:
        address = f"http://{HOST}:{listener.getsockname()[1]}/"
        print(f"{reader.path}: live page {address} · Ctrl-C stops", file=sys.stderr)
        config = uvicorn.Config(app, log_level="warning", server_header=False, ws="none", lifespan="off")
        with suppress(KeyboardInterrupt):  # uvicorn raises it again after an orderly shutdown
            uvicorn.Server(config).run(sockets=[listener])


def create_dashboard_app(reader: RunReader) -> "Starlette":
    """The page, and its data at /dashboard. Panels are omitted when `since` is the current version."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import Response
    from starlette.routing import Route

    started = f"{time.time():.3f}"
    by_stage: dict[str | None, RunReader] = {reader.requested_stage: reader}

    def answer(content: bytes, kind: str, status: int = 200) -> Response:
        return Response(
            content, status, headers={"Content-Type": kind, "Cache-Control": "no-store", **SECURITY_HEADERS}
        )

    def file(name: str, kind: str) -> Callable[["Request"], Awaitable[Response]]:
        content = (Path(__file__).parent / "dashboard_page" / name).read_bytes()

        async def send(request: "Request") -> Response:
            return answer(content, kind)

        return send

    async def send_dashboard(request: "Request") -> Response:
        stage = request.query_params.get("stage") or reader.requested_stage
        try:
            if stage not in by_stage and stage in reader.trainings():
                by_stage[stage] = RunReader(reader.path, stage)
            current = by_stage.get(stage, reader)
            current.refresh()
            version = f"{started} {current.current_stage()} {current.version}"
            dashboard: dict[str, Any] = asdict(build_dashboard(current, MAX_POINTS))
        except UserError as error:
            return answer(json.dumps({"error": str(error)}).encode(), "application/json", 503)
        dashboard |= {"version": version, "stages": list(current.trainings()), "stage": current.current_stage()}
        if request.query_params.get("since") == version:
            del dashboard["panels"]
        return answer(json.dumps(dashboard, allow_nan=False).encode(), "application/json")

    routes = [
        *(Route(address, file(*file_and_type)) for address, file_and_type in PAGE_FILES.items()),
        Route("/dashboard", send_dashboard),
    ]
    return Starlette(
        routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=NAMES, www_redirect=False)]
    )
