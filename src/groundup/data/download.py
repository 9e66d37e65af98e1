"""Downloads into the cache: resumable, checksummed, complete or missing."""

import base64
import netrc
import os
import re
import shutil
import ssl
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from groundup.artifacts.directory import commit_file
from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import hash_file
from groundup.artifacts.machine import Machine
from groundup.artifacts.system_modules import import_posix
from groundup.recipe.allowed_inputs import SECRET_PARAMETER, is_allowed

ATTEMPTS = 4
TIMEOUT_SECONDS = 60
CHUNK_BYTES = 1 << 20
USER_AGENT = "groundup"


def open_url(
    url: str,
    headers: dict[str, str],
    *,
    certificates: str | None = None,
    missing_statuses: tuple[int, ...] = (),
    allowed: tuple[str, ...] | None = None,
) -> Any:
    """Open a URL for reading, with retries. Returns None for a status in `missing_statuses`; raises UserError for
    other errors, and for a redirect to an address outside of `allowed`.

    Credentials in the URL (as in pip's settings), or of the host in ~/.netrc, are sent as basic authentication. They do
    not follow a redirect to another host.
    """
    credentials = _credentials(url)
    url = _without_login(url)
    if credentials is not None:
        login = base64.b64encode(":".join(credentials).encode()).decode()
        headers = {**headers, "Authorization": f"Basic {login}"}
    https = HTTPSHandler(context=ssl.create_default_context(cafile=certificates))
    opener = build_opener(https, _RedirectHandler(allowed))
    for attempt in range(ATTEMPTS):
        try:
            return opener.open(Request(url, headers={"User-Agent": USER_AGENT, **headers}), timeout=TIMEOUT_SECONDS)
        except HTTPError as error:
            error.close()
            if error.code in missing_statuses:
                return None
            if error.code not in (408, 429, 500, 502, 503, 504) or attempt == ATTEMPTS - 1:
                raise UserError(
                    f"{redact_credentials(url)}: the server returned {error.code} {error.reason}",
                    hint="check the address",
                ) from None
        except (URLError, TimeoutError, OSError) as error:
            if attempt == ATTEMPTS - 1:
                reason = getattr(error, "reason", error)
                raise UserError(
                    f"{redact_credentials(url)}: cannot be reached: {reason}",
                    hint="check the network, or set machine.offline",
                ) from None
        time.sleep(2**attempt)
    return None


def download(
    url: str,
    target: Path,
    machine: Machine,
    *,
    sha256: str | None = None,
    certificates: str | None = None,
    allowed: tuple[str, ...] | None = None,
) -> Path:
    """Download `url` to `target` unless it exists.

    The file is renamed to `target` when complete and verified; an interrupted download is resumed if the server
    supports ranges. Raises UserError offline, for a wrong checksum and for server errors.
    """
    if target.exists():
        return target
    if machine.offline and urlsplit(url).scheme != "file":
        raise UserError(
            f"{target.name} is not in the cache and machine.offline is set",
            hint=f"run once online to fetch {redact_credentials(url)}",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    lock = target.with_name(f".{target.name}.lock")
    fcntl = import_posix("fcntl", "locks of downloads")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another process may be downloading the same file
        if target.exists():
            lock.unlink(missing_ok=True)
            return target
        with machine.progress.task(f"fetch {target.name}", unit="bytes") as task:
            for attempt in range(ATTEMPTS):
                if _download_once(url, partial, task, certificates, allowed):
                    break
                if attempt == ATTEMPTS - 1:
                    raise UserError(
                        f"{redact_credentials(url)}: the connection ended early {ATTEMPTS} times",
                        hint="run again: the download continues",
                    )
        found = hash_file(partial)
        if sha256 is not None and found != sha256:
            partial.unlink()
            raise UserError(
                f"{redact_credentials(url)}: sha256 {found}, expected {sha256}",
                hint="the file changed, or the recipe's sha256 is wrong",
            )
        commit_file(partial, target)
        lock.unlink(missing_ok=True)  # whoever waits for it finds the target
    return target


def _download_once(
    url: str, partial: Path, task: Any, certificates: str | None, allowed: tuple[str, ...] | None
) -> bool:
    """One attempt; true if the file is complete."""
    offset = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    response = open_url(url, headers, certificates=certificates, missing_statuses=(416,), allowed=allowed)
    if response is None:  # range not satisfiable: start again
        partial.unlink()
        return False
    with response:
        continued = offset > 0 and getattr(response, "status", 200) == 206
        length = response.headers.get("Content-Length")
        task.total = int(length) + (offset if continued else 0) if length else None
        task.resume_at(offset if continued else 0)
        with partial.open("ab" if continued else "wb") as file:
            while True:
                try:
                    chunk = response.read(CHUNK_BYTES)
                except (OSError, HTTPException):
                    return False
                if not chunk:
                    break
                file.write(chunk)
                task.advance(len(chunk))
    return task.total is None or partial.stat().st_size == task.total


def copy_stream(source: Any, target: Path) -> Path:
    """Write a binary stream to `target`, which appears when complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            shutil.copyfileobj(source, file, CHUNK_BYTES)
        commit_file(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


class _RedirectHandler(HTTPRedirectHandler):
    """Redirects without the password when they lead to another host, to another port, or from https to http."""

    def __init__(self, allowed: tuple[str, ...] | None):
        self._allowed = allowed

    def redirect_request(self, req: Request, *answer: Any) -> Request | None:
        new = super().redirect_request(req, *answer)
        if new is not None and self._allowed is not None and not is_allowed(new.full_url, self._allowed):
            raise UserError(
                f"{redact_credentials(req.full_url)}: a redirect to {_origin(new.full_url)[1]}, which "
                "machine.allowed_inputs does not allow",
                hint=f"allowed: {', '.join(self._allowed)}",
            )
        if new is not None and _origin(new.full_url) not in (_origin(req.full_url), ("https", req.host)):
            new.remove_header("Authorization")
        return new


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _credentials(url: str) -> tuple[str, str] | None:
    """User and password of a URL, or of its host in ~/.netrc."""
    parts = urlsplit(url)
    if parts.username is not None:
        return unquote(parts.username), unquote(parts.password or "")
    try:
        login = netrc.netrc().authenticators(parts.hostname) if parts.scheme == "https" and parts.hostname else None
    except FileNotFoundError:
        return None
    except (OSError, netrc.NetrcParseError) as error:
        message = getattr(error, "msg", None) or getattr(error, "strerror", None)
        raise UserError(
            f"~/.netrc: not readable: {message}", hint="machine HOST login USER password PASSWORD"
        ) from None
    return (login[0], login[2]) if login else None


def redact_credentials(url: str) -> str:
    """The URL without user, password, and values of secret parameters such as X-Amz-Signature, for messages."""
    return re.sub(f"([?&]{SECRET_PARAMETER}=)[^&#]*", r"\1***", _without_login(url), flags=re.IGNORECASE)


def _without_login(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
