"""The legend: one letter for each dimension, the same in every signature of this project.

    B  batch            H  query heads        F  feed-forward       N  tokens of a batch, flat
    T  query tokens     G  key/value heads    V  vocabulary         M  tokens, sorted by expert
    S  key tokens       K  head dim           E  experts            L  layers
    D  hidden size      P  pairs of a head    k  experts a token    C  room for keys

`x: Float[Tensor, "B T D"]` says: floating point, and these three. `*B` may be missing, `#B` may be 1, `...` is
any number of dimensions. The annotations (jaxtyping) cost nothing when the model runs; the tests turn them
into checks (`--jaxtyping-packages` in pyproject.toml).
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Bool", "Float", "Int", "Tensor"]
