"""Errors in the format of OpenAI's API."""

from dataclasses import dataclass

from starlette.responses import JSONResponse


@dataclass(eq=False)
class ApiError(Exception):
    """An error response: HTTP status, message and machine-readable code.

    Attributes:
        param: the invalid field of the request, if any.
    """

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] | None = None

    def __str__(self) -> str:
        return self.message

    def payload(self) -> dict[str, dict[str, str | None]]:
        kind = ERROR_TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.payload(), status_code=self.status, headers=self.headers)


ERROR_TYPES = {401: "authentication_error", 429: "rate_limit_error", 503: "overloaded_error"}
