"""Reading a request's body: only JSON, only so much, and not forever."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from groundup.serve.api_error import ApiError

BODY_TIMEOUT_SECONDS = 30.0
"""How long a client may take to send its body."""


async def read_json_body(request: Request, max_bytes: int) -> bytes:
    """The bytes of a JSON body. Raises ApiError 408, 413 or 415.

    Insisting on the content type keeps other sites' pages out: a browser asks before it sends JSON across
    sites, and this server does not say yes.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            415, f"Content-Type: {kind or 'none'}, expected application/json", code="unsupported_media_type"
        )
    too_large = ApiError(413, f"the body is larger than {max_bytes:,} bytes", code="body_too_large")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > max_bytes:
                    raise too_large
    except TimeoutError:
        raise ApiError(
            408, f"the body did not come within {BODY_TIMEOUT_SECONDS:g} seconds", code="timeout"
        ) from None
    except ClientDisconnect:
        raise ApiError(499, "the client left") from None
    return bytes(body)
