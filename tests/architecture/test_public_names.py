"""The names of `import groundup`."""

import pytest

import groundup


@pytest.mark.parametrize("name", groundup.__all__)
def test_every_public_name_is_importable_and_documented(name):
    assert getattr(groundup, name).__doc__


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="it has Decoder"):
        groundup.Nothing  # noqa: B018
