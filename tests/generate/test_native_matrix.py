"""Products in C against those of PyTorch."""

import os
import threading

import pytest
import torch

from groundup.generate.native.native_matrix import float_matrix, multiply, native_library

pytestmark = pytest.mark.skipif(native_library() is None, reason="no C compiler")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(144, 96), (70, 50)])
def test_products_equal_those_of_torch(dtype, rows, columns):
    weight, bias = torch.randn(rows, columns, dtype=dtype), torch.randn(rows, dtype=dtype)
    x = torch.randn(37, columns, dtype=dtype)
    matrix = float_matrix(weight, bias)
    assert matrix is not None
    found = multiply(x, matrix)
    expected = (x.double() @ weight.double().T + bias.double()).to(dtype)
    torch.testing.assert_close(found, expected)
    for part in (1, 15, 16, 17):
        assert torch.equal(multiply(x[:part], matrix), found[:part])
    assert torch.equal(multiply(x.repeat(1, 2)[:, :columns], matrix), found)


def test_threads_share_a_product(monkeypatch):
    matrix = float_matrix(torch.randn(2000, 64))
    x = torch.randn(3, 64)
    assert matrix is not None
    expected = multiply(x, matrix)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    wrong = []

    def repeat():
        wrong.extend(1 for _ in range(200) if not torch.equal(multiply(x, matrix), expected))

    threads = [threading.Thread(target=repeat) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_process_has_threads_of_its_own(monkeypatch):
    matrix = float_matrix(torch.randn(2000, 64))
    x = torch.randn(3, 64)
    assert matrix is not None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    expected = multiply(x, matrix)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(multiply(x, matrix), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_other_weights_are_refused():
    assert float_matrix(torch.randn(4, 4, dtype=torch.float64)) is None
    assert float_matrix(torch.randn(4, 4).T) is None
