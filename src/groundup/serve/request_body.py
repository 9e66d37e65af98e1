"""Request bodies: JSON only, with limits of size and time."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from groundup.serve.api_error import ApiError

BODY_TIMEOUT_SECONDS = 30.0
"""Time limit for receiving a request body."""


async def read_json_body(request: Request, max_bytes: int) -> bytes:
    """The bytes of a JSON body. Raises ApiError 408, 413 or 415.

    The required content type blocks cross-site requests: browsers send JSON to other sites only after a CORS preflight,
    which this server does not grant.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"Content-Type: {kind or 'none'}, expected application/json", code="unsupported_media_type")
    too_large = ApiError(413, f"the request is larger than {max_bytes:,} bytes", code="body_too_large")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise too_large
    except TimeoutError:
        raise ApiError(
            408, f"the request was not received within {BODY_TIMEOUT_SECONDS:g} seconds", code="timeout"
        ) from None
    except ClientDisconnect:
        raise ApiError(499, "the client disconnected") from None
    return bytes(body)
