"""pass@k of programs that a model has written (Chen et al. 2021), run in the sandbox: HumanEval, MBPP.

Takes the place of the metric `code_eval` of the package `evaluate`, which needs the network, and runs programs unconfined.
"""

from collections.abc import Sequence
from math import comb
from typing import Any

from groundup.evaluate.code_sandbox import check_sandbox, passes_tests

TIMEOUT_SECONDS = 3.0
"""Of one program, as in `code_eval`."""


class SandboxedCodeEval:
    """`code_eval` as lm-evaluation-harness calls it."""

    def compute(
        self, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] = (1, 10, 100), **_: Any
    ) -> tuple[dict[str, float], list[list[bool]]]:
        """({"pass@k": mean over the problems}, whether each program of each problem passes its tests).

        A problem with fewer than k programs has no pass@k, as in `code_eval`: then the key is missing.
        """
        check_sandbox()
        passed = [
            [passes_tests(program, tests, timeout_seconds=TIMEOUT_SECONDS) for program in programs]
            for tests, programs in zip(references, predictions, strict=True)
        ]
        least = min(map(len, passed), default=0)
        scores = {
            f"pass@{each}": sum(pass_at_k(len(row), sum(row), each) for row in passed) / len(passed)
            for each in k
            if each <= least
        }
        return scores, passed


def pass_at_k(count: int, correct: int, k: int) -> float:
    """Probability that one of k programs of `count`, of which `correct` pass, passes: the estimate without bias.

    >>> pass_at_k(2, 1, 1)
    0.5
    """
    return 1 - comb(count - correct, k) / comb(count, k)
