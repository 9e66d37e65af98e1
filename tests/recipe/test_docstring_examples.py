"""The examples in docstrings of the recipe and the plan."""

import doctest
import importlib
import pkgutil

import pytest

import groundup.plan
import groundup.recipe

MODULES = [
    f"{package.__name__}.{module.name}"
    for package in (groundup.recipe, groundup.plan)
    for module in pkgutil.iter_modules(package.__path__)
]


@pytest.mark.parametrize("module", MODULES)
def test_examples(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0
