"""What the chat server and the training dashboard share: a listening socket, HTTP security headers."""

import errno
import os
import socket

from groundup.artifacts.errors import UserError

SECURITY_HEADERS = {
    # pages load only their own files and cannot be framed
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types lit-html",  # no text becomes HTML but lit-html's own templates
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}

HINT_BY_ERRNO = {
    errno.EADDRINUSE: "the port is in use: choose another with --port; 0: any free port",
    errno.EACCES: "ports below 1024 need root rights: choose another with --port",
    errno.EADDRNOTAVAIL: "not an address of this machine: use 127.0.0.1, or 0.0.0.0 for all its addresses",
}


def bind_socket(host: str, port: int) -> socket.socket:
    """A socket that listens on the address. Raises UserError if the address is not available."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(
            f"host {host!r}: {error.strerror or error}", hint="127.0.0.1 is this machine, 0.0.0.0 all its addresses"
        ) from None
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # on Windows it would allow two servers on one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UserError(f"{host}:{port}: {error.strerror}", hint=HINT_BY_ERRNO.get(error.errno or 0)) from None
    return listener
