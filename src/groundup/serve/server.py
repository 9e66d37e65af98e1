"""Listening: the application on a socket, until Ctrl-C."""

import errno
import ipaddress
import os
import socket
import sys
from contextlib import suppress

import uvicorn

from groundup.artifacts.errors import UserError
from groundup.model import Decoder
from groundup.serve.app import create_app
from groundup.tokenizer import Tokenizer

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
MAX_CONNECTIONS = 1024


def serve(
    model: Decoder,
    tokenizer: Tokenizer,
    *,
    name: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
) -> None:
    """Serve until interrupted.

    Args:
        name: what clients call the model.
        host: address to listen on; the default lets in nobody from outside this machine.
        port: 0 takes a free one, and says which.
        api_key: see `create_app`.

    Raises UserError when the address cannot be had: in use, not of this machine, not allowed.
    """
    with listen(host, port) as listener:
        local = _is_loopback(listener)
        hosts = {*LOOPBACK_NAMES, host.lower()} if local and api_key is None else None
        app = create_app(model, tokenizer, name=name, api_key=api_key, hosts=hosts)
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listener.getsockname()[1]}"
        print(f"{name}: chat page {address}/ · API {address}/v1 · Ctrl-C ends", file=sys.stderr)
        if not local and api_key is None:
            print(
                "note: anybody who reaches this address may use it; --api-key lets in only some",
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
        with suppress(KeyboardInterrupt):  # which uvicorn raises again when it has closed everything in order
            uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on the address. Raises UserError when it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(
            f"host {host!r}: {error.strerror or error}",
            hint="127.0.0.1 is this machine, 0.0.0.0 all its addresses",
        ) from None
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UserError(f"{host}:{port}: {error.strerror}", hint=_HINTS.get(error.errno or 0)) from None
    return listener


_HINTS = {
    errno.EADDRINUSE: "something listens there already: choose another with --port; 0 takes a free one",
    errno.EACCES: "ports below 1024 need rights: choose another with --port",
    errno.EADDRNOTAVAIL: "not an address of this machine: 127.0.0.1 is itself, 0.0.0.0 all it has",
}


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback
