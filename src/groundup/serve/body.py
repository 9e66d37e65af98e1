"""Reading a request's body: only JSON, only so much, and not forever."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from groundup.serve.errors import ApiError

SECONDS = 30.0
"""How long a client may take to send its body."""


async def read_json(request: Request, limit: int) -> bytes:
    """The bytes of a JSON body. Raises ApiError 408, 413 or 415.

    Insisting on the content type keeps other sites' pages out: a browser asks before it sends JSON across
    sites, and this server does not say yes.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            415, f"Content-Type: {kind or 'none'}, expected application/json", code="unsupported_media_type"
        )
    too_large = ApiError(413, f"the body is larger than {limit:,} bytes", code="body_too_large")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {SECONDS:g} seconds", code="timeout") from None
    except ClientDisconnect:
        raise ApiError(499, "the client left") from None
    return bytes(body)
