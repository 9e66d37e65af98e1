"""`groundup init --form`: a form in the browser, served on this machine only, until a recipe is written.

The page gets a random key in the part of its address after #, which browsers do not send; every request for data carries it.
So neither a page of another origin nor another user of this machine can ask.
"""

import json
import secrets
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from groundup.artifacts.errors import UserError
from groundup.viewers.local_page import page_app, send_json, serve_page

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PAGE_FILES = {"/": "index.html", "/form.css": "form.css", "/form.js": "form.js"}
MAX_BODY_BYTES = 1 << 16


class Form(Protocol):
    """What the page asks. Each method may raise UserError, which the page shows."""

    def questions(self) -> dict[str, Any]:
        """Questions with defaults and choices."""
        ...

    def plans(self, answers: dict[str, str]) -> dict[str, Any]:
        """Plans side by side for the answers."""
        ...

    def write(self, answers: dict[str, str]) -> dict[str, Any]:
        """Write the recipe of the chosen plan."""
        ...


def serve_form(form: Form, port: int) -> None:
    """Serve the form until its recipe is written. Raises UserError when the port is not available."""
    key = secrets.token_urlsafe(24)
    serve_page(create_form_app(form, key), port, lambda address: f"form: {address} · Ctrl-C stops", f"#{key}")


def create_form_app(form: Form, key: str) -> "Starlette":
    """The page; GET /questions, POST /plans and POST /recipe for requests with the key."""
    from starlette.background import BackgroundTask
    from starlette.concurrency import run_in_threadpool
    from starlette.routing import Route

    one_at_a_time = threading.Lock()

    def call(method: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
        with one_at_a_time:
            return method(*arguments)

    def refusal(request: "Request") -> "Response | None":
        if not secrets.compare_digest(request.headers.get("authorization", "").encode(), f"Bearer {key}".encode()):
            return send_json({"error": "a wrong key: open the address that groundup init --form printed"}, 401)
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return send_json({"error": "a request of another site"}, 403)
        return None

    def answering(method: Callable[[dict[str, str]], dict[str, Any]]) -> Callable[["Request"], Awaitable["Response"]]:
        async def answer(request: "Request") -> "Response":
            if (refused := refusal(request)) is not None:
                return refused
            body = b""
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    return send_json({"error": f"more than {MAX_BODY_BYTES} bytes"}, 413)
            try:
                answers = json.loads(body)
            except (ValueError, RecursionError):
                answers = None
            if not isinstance(answers, dict) or not all(isinstance(value, str) for value in answers.values()):
                return send_json({"error": "expected a JSON object of texts"}, 400)
            try:
                return send_json(await run_in_threadpool(call, method, answers))
            except UserError as error:
                return send_json({"error": str(error)}, 400)

        return answer

    async def send_questions(request: "Request") -> "Response":
        return refusal(request) or send_json(await run_in_threadpool(call, form.questions))

    write = answering(form.write)

    async def send_recipe(request: "Request") -> "Response":
        response = await write(request)
        if response.status_code == 200:
            response.background = BackgroundTask(stop)
        return response

    def stop() -> None:
        if (server := getattr(app.state, "server", None)) is not None:
            server.should_exit = True

    routes = [
        Route("/questions", send_questions),
        Route("/plans", answering(form.plans), methods=["POST"]),
        Route("/recipe", send_recipe, methods=["POST"]),
    ]
    app = page_app("form_page", PAGE_FILES, routes)
    return app
