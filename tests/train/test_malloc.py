"""glibc malloc settings avoid page faults."""

import os
import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, sys, torch
from groundup.train.device import disable_malloc_trim
if sys.argv[1] == "kept":
    assert disable_malloc_trim()
torch.set_num_threads(1)
torch.ones(16_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(way: str) -> int:
    clean = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    command = [sys.executable, "-c", COUNT, way]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_disable_malloc_trim_avoids_page_faults():
    assert faults("kept") < faults("given back") / 4
