"""Limits of requests and tokens a minute for each client: token buckets (RFC 2697's committed rate, without excess)."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from groundup.serve.api_error import ApiError

MAX_CLIENTS = 10_000
"""Clients that are remembered; beyond them, those that have used least are forgotten."""


@dataclass
class Allowance:
    """What one client may use now. It grows steadily, up to that of a minute; below 0, requests wait."""

    limit: int
    level: float
    updated: float

    def refill(self, now: float) -> None:
        self.level = min(self.limit, self.level + (now - self.updated) * self.limit / 60)
        self.updated = now

    def seconds_until(self, level: float) -> float:
        return max(0.0, (level - self.level) * 60 / self.limit)


@dataclass
class RateLimits:
    """Limits that apply to each client by itself; None: no limit.

    Tokens are those of prompts and answers, counted when an answer ends: the allowance may then be negative.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    clock: Callable[[], float] = time.monotonic
    _allowances: dict[str, dict[str, Allowance]] = field(default_factory=dict)

    def admit(self, client: str) -> dict[str, str]:
        """Count a request. Returns headers with the limits, and what remains. Raises ApiError 429 with Retry-After."""
        now = self.clock()
        allowances = self._of(client, now)
        for kind, allowance in allowances.items():
            allowance.refill(now)
            wanted = 1 if kind == "requests" else min(1.0, allowance.limit)
            if (wait := allowance.seconds_until(wanted)) > 0:
                raise ApiError(
                    429, f"{allowance.limit} {kind} a minute are allowed: try again in {math.ceil(wait)} s",
                    code="rate_limit_exceeded", headers=_headers(allowances) | {"Retry-After": str(math.ceil(wait))},
                )  # fmt: skip
        if "requests" in allowances:
            allowances["requests"].level -= 1
        return _headers(allowances)

    def charge(self, client: str, tokens: int) -> None:
        """Count the tokens of an answer."""
        allowance = self._of(client, self.clock()).get("tokens")
        if allowance is not None:
            allowance.refill(self.clock())
            allowance.level -= tokens

    def _of(self, client: str, now: float) -> dict[str, Allowance]:
        if client not in self._allowances:
            if len(self._allowances) >= MAX_CLIENTS:
                self._forget(now)
            limits = (("requests", self.requests_per_minute), ("tokens", self.tokens_per_minute))
            self._allowances[client] = {kind: Allowance(limit, limit, now) for kind, limit in limits if limit}
        return self._allowances[client]

    def _forget(self, now: float) -> None:
        """Forget the half of the clients that have used least."""

        def used(client: str) -> float:
            allowances = self._allowances[client].values()
            for allowance in allowances:
                allowance.refill(now)
            return max((allowance.seconds_until(allowance.limit) for allowance in allowances), default=0.0)

        for client in sorted(self._allowances, key=used)[: MAX_CLIENTS // 2]:
            del self._allowances[client]


def _headers(allowances: dict[str, Allowance]) -> dict[str, str]:
    """OpenAI's headers."""
    headers = {}
    for kind, allowance in allowances.items():
        headers[f"X-RateLimit-Limit-{kind.capitalize()}"] = str(allowance.limit)
        headers[f"X-RateLimit-Remaining-{kind.capitalize()}"] = str(max(0, math.floor(allowance.level)))
    return headers
