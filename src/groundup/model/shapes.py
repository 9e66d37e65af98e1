"""The legend: one letter for each dimension, the same in every signature of this project.

    B  batch            T  query tokens     H  query heads         F  feed-forward
    D  hidden size      S  key tokens       G  key/value heads     V  vocabulary
    E  experts          N  tokens, flat     K  head dim

`x: Float[Tensor, "B T D"]` says: floating point, and these three. The annotations (jaxtyping) cost nothing
when the model runs; the test suite turns them into checks (see tests/conftest.py).
"""

from typing import TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

Tokens: TypeAlias = Int[Tensor, "B T"]
"""Token ids, documents or positions, one for each token of a batch."""

__all__ = ["Bool", "Float", "Int", "Tensor", "Tokens"]
