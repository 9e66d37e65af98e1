"""`groundup serve`: the application on a socket, until Ctrl-C."""

import ipaddress
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress

import uvicorn

from groundup.artifacts.http_server import bind_socket
from groundup.generate.generation import GenerativeModel
from groundup.model import Encoder
from groundup.serve.app import create_app
from groundup.tokenizer import Tokenizer

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
MAX_CONNECTIONS = 1024


def serve(
    model: GenerativeModel | Encoder,
    tokenizer: Tokenizer,
    *,
    name: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    adapters: Mapping[str, tuple[GenerativeModel | Encoder, Tokenizer]] | None = None,
) -> None:
    """Serve a model with an OpenAI-compatible API and a chat page until interrupted.

        model, tokenizer = groundup.open_model("runs/quickstart")
        serve(model, tokenizer, name="quickstart")

    Args:
        name: model name in requests and responses.
        host: address to listen on; the default accepts connections from this machine only.
        port: 0 for any free port.
        api_key, adapters: see `create_app`.

    Raises UserError when the address is in use, not of this machine or not permitted.
    """
    with bind_socket(host, port) as listener:
        local = _is_loopback(listener)
        hosts = {*LOOPBACK_NAMES, host.lower()} if local and api_key is None else None
        app = create_app(model, tokenizer, name=name, api_key=api_key, hosts=hosts, adapters=adapters)
        url_host = f"[{host}]" if ":" in host else host
        address = f"http://{url_host}:{listener.getsockname()[1]}"
        print(
            f"{', '.join((name, *(adapters or ())))}: chat page {address}/ · API {address}/v1 · Ctrl-C stops",
            file=sys.stderr,
        )
        if not local and api_key is None:
            print(
                "note: no API key is set: anyone who can reach this address can use the model (see --api-key)",
                file=sys.stderr,
            )
        config = uvicorn.Config(
            app,
            log_level="warning",
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=5,
            h11_max_incomplete_event_size=64 * 1024,
            ws="none",
        )
        with suppress(KeyboardInterrupt):  # uvicorn raises it again after an orderly shutdown
            uvicorn.Server(config).run(sockets=[listener])


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback
