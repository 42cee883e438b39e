"""A real limit of the memory of this process."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MB = 2**20


@contextmanager
def at_most(more: int) -> Iterator[None]:
    """Let this process allocate no more than `more` bytes than now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
