"""A socket to listen on, or one line that says why it cannot be had."""

import errno
import os
import socket

from groundup.artifacts.errors import UserError

HINT_BY_ERRNO = {
    errno.EADDRINUSE: "something listens there already: choose another with --port; 0 takes a free one",
    errno.EACCES: "ports below 1024 need rights: choose another with --port",
    errno.EADDRNOTAVAIL: "not an address of this machine: 127.0.0.1 is itself, 0.0.0.0 all it has",
}


def bind_socket(host: str, port: int) -> socket.socket:
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
        raise UserError(
            f"{host}:{port}: {error.strerror}", hint=HINT_BY_ERRNO.get(error.errno or 0)
        ) from None
    return listener
