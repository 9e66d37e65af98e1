"""Shape annotations: checked in the tests, with letters from the legend of model/shapes.py."""

import re
from pathlib import Path

import jaxtyping
import pytest
import torch

from groundup.model import shapes
from groundup.model.position_encoding import RelativeBias
from groundup.model.rope import Rotation, rotate

SOURCE = Path(shapes.__file__).parents[1]


def test_wrong_shape_is_refused(config):
    rotation = Rotation(torch.ones(5, 4), torch.zeros(5, 4))
    x = torch.randn(2, 3, 5, 4)
    assert torch.equal(rotate(x, rotation), x)
    with pytest.raises(jaxtyping.TypeCheckError):
        rotate(x[0], rotation)
    with pytest.raises(jaxtyping.TypeCheckError):
        RelativeBias(config(position_embedding="relative"), True)(torch.ones(3), torch.ones(3))


def test_every_letter_is_documented():
    legend = set(re.findall(r"(?:^| )([A-Za-z])  ", shapes.__doc__ or "", flags=re.MULTILINE))
    for path in SOURCE.rglob("*.py"):
        for dimensions in re.findall(r'\b(?:Float|Int|Bool)\[Tensor, "([^"]*)"\]', path.read_text(encoding="utf-8")):
            letters = {name.lstrip("*#") for name in dimensions.split()} & set("ABCDEFGHIJKLMNOPQRSTUVWXYZk")
            assert letters <= legend, (path.name, dimensions)
