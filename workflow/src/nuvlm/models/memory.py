"""How much memory this process took."""

import resource
import sys


def process_peak_mb() -> float:
    """Peak memory of this process so far, MB (10^6 bytes)."""
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
