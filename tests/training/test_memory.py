import json
import platform
import subprocess
import sys

import pytest

from moesaic.training import keep_memory_warm
from moesaic.training import memory as module

GLIBC = platform.libc_ver()[0] == "glibc"


@pytest.fixture
def forget():
    """Ask anew, here and afterwards."""
    keep_memory_warm.cache_clear()
    yield
    keep_memory_warm.cache_clear()


def test_it_says_whether_it_took_effect():
    assert keep_memory_warm() is GLIBC
    assert keep_memory_warm() is GLIBC


@pytest.mark.parametrize("missing", ["a C library", "its settings"])
def test_elsewhere_nothing_is_changed(monkeypatch, forget, missing):
    def library(name):
        if missing == "a C library":
            raise TypeError("argument of type 'NoneType' is not iterable")  # what Windows says
        return object()  # musl: no mallopt

    monkeypatch.setattr(module.ctypes, "CDLL", library)
    assert keep_memory_warm() is False


FAULTS = """
import json, resource, torch
from moesaic.training import keep_memory_warm
if {warm}:
    assert keep_memory_warm()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(2**24)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(json.dumps([faults() for _ in range(5)]))
"""


@pytest.mark.skipif(not GLIBC, reason="there is nothing to keep elsewhere")
def test_freed_memory_is_there_again_without_a_page_fault():
    def faults(warm):
        code = FAULTS.format(warm=warm)
        return json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)

    # Pages may be as large as 2 MB, of which 64 MB has 32. The first times may find another place.
    assert faults(False)[-1] >= 32
    assert faults(True)[-1] < 8
