"""Tensor shapes: the letters of dimensions in annotations, the same in the whole project.

    B  batch            H  query heads        F  feed-forward size     N  tokens of a batch, flattened
    T  query tokens     G  key/value heads    V  vocabulary            M  tokens, sorted by expert
    S  key tokens       K  head dimension     E  experts               L  layers
    D  hidden size      P  pairs of a head    k  experts per token     C  tokens of a chunk, or cache slots
    Kv width of the values of a head, where it is not K                W  numbers of a token in a cache of latents
    I  in features      O  out features       R  rows: of a cache, or of an embedding table

In `x: Float[Tensor, "B T D"]`, the dtype is floating point and the dimensions are these three. `*B` stands for any number
of dimensions, `#B` may also be 1, `...` is any number of unnamed dimensions. The annotations (jaxtyping) are not checked
in use; the tests check them (tests/conftest.py).
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Bool", "Float", "Int", "Tensor"]
