"""13. Serving: an OpenAI-compatible HTTP API and a chat page for one model.

    api_error.py            errors in OpenAI's format
    protocol.py             request schemas
    request_body.py         limits of request bodies
    engine_thread.py        the thread that runs the generation engine
    completion_choices.py   engine outputs accumulated into choices
    response_format.py      responses as JSON
    event_stream.py         server-sent events, cancellation when the client disconnects
    prometheus.py           metrics
    endpoints.py            HTTP endpoints
    middleware.py           security headers, metrics, trusted hosts, API key
    connection.py           limits of connections
    app.py                  the ASGI application
    server.py               the application on a socket
    chat_page/              HTML, CSS and JavaScript without a build step

Deliberately absent: a stage (serving writes no artifact); CORS, TLS and accounts, which belong in a reverse proxy; and
tools, images and several choices per prompt, which are refused with an error.
"""

from groundup.serve.app import create_app
from groundup.serve.server import serve

__all__ = ["create_app", "serve"]
