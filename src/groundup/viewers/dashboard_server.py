"""Training dashboard as a web page, served on this machine only; each request reads the new records."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from groundup.artifacts.errors import UserError
from groundup.viewers.dashboard import build_dashboard
from groundup.viewers.local_page import page_app, send_json, serve_page
from groundup.viewers.run_reader import RunReader

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PAGE_FILES = {"/": "index.html", "/watch.css": "watch.css", "/watch.js": "watch.js"}
MAX_POINTS = 1200
"""Points per curve, about one per pixel of a wide screen."""


def serve_dashboard(reader: RunReader, port: int) -> None:
    """Serve the page until interrupted. Raises UserError when the port is not available."""
    serve_page(create_dashboard_app(reader), port, lambda address: f"{reader.path}: live page {address} · Ctrl-C stops")


def create_dashboard_app(reader: RunReader) -> "Starlette":
    """The page, and its data at /dashboard. Panels are omitted when `since` is the current version."""
    from starlette.routing import Route

    started = f"{time.time():.3f}"
    by_stage: dict[str | None, RunReader] = {reader.requested_stage: reader}

    async def send_dashboard(request: "Request") -> "Response":
        stage = request.query_params.get("stage") or reader.requested_stage
        try:
            if stage not in by_stage and stage in reader.trainings():
                by_stage[stage] = RunReader(reader.path, stage)
            current = by_stage.get(stage, reader)
            current.refresh()
            version = f"{started} {current.current_stage()} {current.version}"
            dashboard: dict[str, Any] = asdict(build_dashboard(current, MAX_POINTS))
        except UserError as error:
            return send_json({"error": str(error)}, 503)
        dashboard |= {"version": version, "stages": list(current.trainings()), "stage": current.current_stage()}
        if request.query_params.get("since") == version:
            del dashboard["panels"]
        return send_json(dashboard)

    return page_app("dashboard_page", PAGE_FILES, [Route("/dashboard", send_dashboard)])
