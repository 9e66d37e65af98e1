"""Errors as OpenAI's API words them, so that its clients understand them."""

from starlette.responses import JSONResponse


class ApiError(Exception):
    """A request that gets no answer: an HTTP status, a sentence for people and a code for programs.

    Attributes:
        status: 4xx is the caller's to mend, 5xx ours.
        param: the field of the request that is wrong, if one is.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = headers

    def payload(self) -> dict[str, dict[str, str | None]]:
        kind = ERROR_TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.payload(), status_code=self.status, headers=self.headers)


ERROR_TYPES = {401: "authentication_error", 503: "overloaded_error"}
