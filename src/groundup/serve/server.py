"""`groundup serve`: the application on a socket, until Ctrl-C."""

import asyncio
import ipaddress
import socket
import ssl
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from groundup.artifacts.errors import UserError
from groundup.artifacts.http_server import bind_socket
from groundup.evaluate.trace import RunTracer
from groundup.generate.generation import GenerativeModel
from groundup.generate.speculative_decoding import Proposer
from groundup.model import Encoder
from groundup.model.serialization import weight_dtype
from groundup.serve.api_keys import ApiKeys
from groundup.serve.app import create_app
from groundup.serve.connection import BoundedConnection, TlsConnection
from groundup.serve.rate_limits import RateLimits
from groundup.serve.request_log import RequestLog
from groundup.tokenizer import Tokenizer

SHUTDOWN_SECONDS = 5.0
"""For running answers to end after Ctrl-C."""


def serve(
    model: GenerativeModel | Encoder,
    tokenizer: Tokenizer,
    *,
    name: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    aliases: Collection[str] = (),
    api_key: str | ApiKeys | None = None,
    limits: RateLimits | None = None,
    cors_origins: Collection[str] = (),
    log: RequestLog | None = None,
    certificate: tuple[Path, Path] | None = None,
    adapters: Mapping[str, tuple[GenerativeModel | Encoder, Tokenizer]] | None = None,
    cache_memory: int | None = None,
    proposer: Proposer | None = None,
    starters: Mapping[str, Sequence[str]] | None = None,
    tracer: RunTracer | None = None,
    allowed_hosts: Collection[str] = (),
    trusted_proxies: Collection[str] = (),
) -> None:
    """Serve a model with an OpenAI-compatible API and a chat page until interrupted.

        model, tokenizer = groundup.open_model("runs/quickstart")
        serve(model, tokenizer, name="quickstart")

    Args:
        name: model name in requests and responses.
        host: address to listen on; the default accepts connections from this machine only.
        port: 0 for any free port.
        aliases, api_key, limits, cors_origins, log, adapters, cache_memory, proposer, starters, tracer: see `create_app`.
        certificate: files of a certificate chain and its key, both PEM, for HTTPS; None: HTTP.
        allowed_hosts: names of this server beside those of this machine, which requests without a key may use.
        trusted_proxies: addresses or networks of reverse proxies, whose X-Forwarded-For and X-Forwarded-Proto count.

    Raises UserError when the address is in use, not of this machine or not permitted, and for a proxy that is no address.
    """
    tls = None if certificate is None else _tls_context(*certificate)
    _check_networks(trusted_proxies)
    with bind_socket(host, port) as listener:
        local = _is_loopback(listener)
        # without a key a Host header of another name may be DNS rebinding
        hosts = {"localhost", socket.gethostname().lower(), host.lower(), *allowed_hosts} if api_key is None else None
        app = create_app(
            model, tokenizer, name=name, aliases=aliases, api_key=api_key, limits=limits, cors_origins=cors_origins,
            log=log, hosts=hosts, adapters=adapters, cache_memory=cache_memory, proposer=proposer,
            starters=starters, tracer=tracer,
        )  # fmt: skip
        url_host = f"[{host}]" if ":" in host else host
        address = f"{'http' if certificate is None else 'https'}://{url_host}:{listener.getsockname()[1]}"
        names, offer = ", ".join((name, *(adapters or ()))), describe_offer(model, tokenizer, address)
        print(f"{names} in {weight_dtype(model)}: {offer} · Ctrl-C stops", file=sys.stderr)
        if not local and api_key is None:
            print(
                "note: no API key is set: anyone who can reach this address can use the model (see --api-key)",
                file=sys.stderr,
            )
        config = uvicorn.Config(
            app,
            http=BoundedConnection if tls is None else partial(TlsConnection, tls),  # type: ignore[arg-type]
            proxy_headers=bool(trusted_proxies),
            forwarded_allow_ips=list(trusted_proxies),
            log_level="warning",
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=int(SHUTDOWN_SECONDS) + 5,
            h11_max_incomplete_event_size=64 * 1024,
            ws="none",
        )
        _Server(config, app).run(sockets=[listener])


def describe_offer(model: GenerativeModel | Encoder, tokenizer: Tokenizer, address: str) -> str:
    """What the server of a model is for, and where."""
    if isinstance(model, Encoder):
        return f"an encoder, embeddings at {address}/v1/embeddings"
    chats = model.config.architecture == "decoder" and tokenizer.chat_template is not None
    return f"{'chat page' if chats else 'page for completions'} {address}/ · API {address}/v1"


class _Server(uvicorn.Server):
    """A server that lets answers end when it is stopped, and then returns."""

    def __init__(self, config: uvicorn.Config, app: Starlette):
        super().__init__(config)
        self._application = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.create_task(self._end_answers())
        await super().shutdown(sockets)
        ending.cancel()

    async def _end_answers(self) -> None:
        """Let running answers end, then tell the others that the server stops, then leave clients that do not read."""
        await self._application.state.stop_generation(SHUTDOWN_SECONDS)
        await asyncio.sleep(1)
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # type: ignore[union-attr]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM are an orderly end: uvicorn does not raise them again."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def _tls_context(chain: Path, key: Path) -> ssl.SSLContext:
    """Raises UserError for files that are no certificate and its key."""
    for path in (chain, key):
        if not path.is_file():
            raise UserError(f"{path}: no such file", hint="a certificate chain and its key as PEM files")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(chain, key, password=lambda: b"")
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error.strerror or "not readable"
        raise UserError(
            f"{chain} and {key}: {reason.lower().replace('_', ' ')}",
            hint="PEM files of a certificate chain and of its key, without a password",
        ) from None
    return context


def _check_networks(addresses: Collection[str]) -> None:
    """Raises UserError for what is neither an address nor a network: uvicorn would ignore it, or trust everybody for `*`."""
    for address in addresses:
        try:
            ipaddress.ip_network(address)
        except ValueError as error:
            raise UserError(
                f"trusted proxy {address!r}, expected an address or a network: {error}", hint="such as 10.0.0.0/8"
            ) from None


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback
