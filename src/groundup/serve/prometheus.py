"""Counters and times in Prometheus' text format (version 0.0.4). Written and read in the event loop only."""

from collections import Counter
from collections.abc import Callable
from itertools import accumulate

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKET_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class LatencyHistogram:
    """How often a time fell below each bound."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKET_BOUNDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[sum(seconds > bound for bound in BUCKET_BOUNDS)] += 1
        self._sum += seconds

    def lines(self, name: str) -> list[str]:
        bounds = [*(f"{bound:g}" for bound in BUCKET_BOUNDS), "+Inf"]
        below = list(accumulate(self._counts))
        buckets = [
            f'{name}_bucket{{le="{bound}"}} {count}' for bound, count in zip(bounds, below, strict=True)
        ]
        return [*buckets, f"{name}_sum {self._sum:.6f}", f"{name}_count {below[-1]}"]


class ServerMetrics:
    """What the server counts.

    Args:
        running, waiting: ask for the number of requests that generate now, and that wait.
    """

    def __init__(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.request_seconds = LatencyHistogram()
        self.first_token_seconds = LatencyHistogram()
        self._running, self._waiting = running, waiting

    def render(self) -> str:
        requests = [
            f'groundup_requests_total{{endpoint="{endpoint}",status="{status}"}} {count}'
            for (endpoint, status), count in sorted(self.requests.items())
        ]
        blocks = (
            ("requests_total", "counter", "Answered requests.", requests),
            ("prompt_tokens_total", "counter", "Tokens of prompts.", self.prompt_tokens),
            ("generated_tokens_total", "counter", "Tokens generated.", self.generated_tokens),
            ("requests_running", "gauge", "Requests that generate now.", self._running()),
            ("requests_waiting", "gauge", "Requests that wait for room in the batch.", self._waiting()),
            (
                "request_seconds",
                "histogram",
                "From a request to the end of its answer.",
                self.request_seconds,
            ),
            (
                "first_token_seconds",
                "histogram",
                "From a request to its first token.",
                self.first_token_seconds,
            ),
        )
        lines: list[str] = []
        for short, kind, meaning, value in blocks:
            name = f"groundup_{short}"
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
            if isinstance(value, LatencyHistogram):
                lines += value.lines(name)
            else:
                lines += value if isinstance(value, list) else [f"{name} {value}"]
        return "\n".join(lines) + "\n"
