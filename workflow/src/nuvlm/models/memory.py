"""Memory of this process: its peak, and how the C library hands it out."""

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

# Options of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def process_peak_mb() -> float:
    """Peak memory of this process so far, MB (10^6 bytes)."""
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def process_mb() -> float:
    """Memory of this process now, MB (10^6 bytes); its peak where there is no /proc."""
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[1])  # pages, proc(5)
    except OSError:
        return process_peak_mb()
    return resident * resource.getpagesize() / 1e6


def memory_in_words(gpu_peak_mb: float | None) -> str:
    """Memory of this process now, and the peak of the GPU if there is one, for the log."""
    gpu = "" if gpu_peak_mb is None else f", GPU {gpu_peak_mb:.0f} MB at its peak"
    return f"memory {process_mb():.0f} MB{gpu}"


def forget_peak() -> None:
    """Start the peak anew from what is in use now; without effect where there is no /proc."""
    # 5 resets the high-water mark of resident memory (proc(5)).
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for the next allocation instead of returning it to the system.

    Each layer of a network allocates tens of megabytes. By default the system maps and clears these pages anew in every
    step, which takes a fifth of the CPU time of training the CNN.

    Returns:
        whether the C library has this option: glibc has it, others do not.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        # 1 GiB is the largest size that is not mapped by itself; 2 GiB of free memory are kept.
        mallopt(option, size) == 1
        for option, size in ((M_MMAP_THRESHOLD, 2**30), (M_TRIM_THRESHOLD, 2**31 - 1))
    )
