"""Server metrics in Prometheus' text format (version 0.0.4). Not thread-safe: used in the event loop only."""

from collections import Counter
from collections.abc import Callable
from itertools import accumulate

from groundup.generate.speculative_decoding import Proposer, SpeculationCounts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKET_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class LatencyHistogram:
    """Cumulative histogram of seconds over BUCKET_BOUNDS."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKET_BOUNDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[sum(seconds > bound for bound in BUCKET_BOUNDS)] += 1
        self._sum += seconds

    def lines(self, name: str) -> list[str]:
        bounds = [*(f"{bound:g}" for bound in BUCKET_BOUNDS), "+Inf"]
        cumulative = list(accumulate(self._counts))
        buckets = [f'{name}_bucket{{le="{bound}"}} {count}' for bound, count in zip(bounds, cumulative, strict=True)]
        return [*buckets, f"{name}_sum {self._sum:.6f}", f"{name}_count {cumulative[-1]}"]


class ServerMetrics:
    """Counters and histograms of the server.

    Args:
        running, waiting: functions that return the numbers of running and queued requests.
        pages: returns the number of pages of keys and values that requests hold.
        proposer: of speculative decoding.
    """

    def __init__(
        self,
        running: Callable[[], int],
        waiting: Callable[[], int],
        pages: Callable[[], int],
        proposer: Proposer | None = None,
    ) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.request_seconds = LatencyHistogram()
        self.first_token_seconds = LatencyHistogram()
        self._running, self._waiting, self._pages, self._proposer = running, waiting, pages, proposer

    def render(self) -> str:
        requests = [
            f'groundup_requests_total{{endpoint="{endpoint}",status="{status}"}} {count}'
            for (endpoint, status), count in sorted(self.requests.items())
        ]
        counts = SpeculationCounts() if self._proposer is None else self._proposer.counts
        metrics = (
            ("requests_total", "counter", "Requests by endpoint and status.", requests),
            ("prompt_tokens_total", "counter", "Prompt tokens.", self.prompt_tokens),
            ("generated_tokens_total", "counter", "Generated tokens.", self.generated_tokens),
            ("proposed_tokens_total", "counter", "Tokens proposed by a draft or prompt lookup.", counts.proposed),
            ("accepted_tokens_total", "counter", "Proposed tokens that were accepted.", counts.accepted),
            ("requests_running", "gauge", "Requests in the batch.", self._running()),
            ("requests_waiting", "gauge", "Requests in the queue.", self._waiting()),
            ("cache_pages_used", "gauge", "Pages of keys and values that requests hold.", self._pages()),
            ("request_seconds", "histogram", "Seconds from request to end of response.", self.request_seconds),
            ("first_token_seconds", "histogram", "Seconds from request to first token.", self.first_token_seconds),
        )
        lines: list[str] = []
        for short_name, kind, description, value in metrics:
            name = f"groundup_{short_name}"
            lines += [f"# HELP {name} {description}", f"# TYPE {name} {kind}"]
            if isinstance(value, LatencyHistogram):
                lines += value.lines(name)
            else:
                lines += value if isinstance(value, list) else [f"{name} {value}"]
        return "\n".join(lines) + "\n"
