"""The C compiler of the machine, which Triton calls for the kernels of a GPU when they first run."""

import os
import shutil
import subprocess
import sysconfig

from nuvlm.base.errors import InputError

COMPILERS = ("gcc", "clang")
"""Those that Triton looks for where CC is not set."""


def require_c_compiler(what: str) -> None:
    """Compile a line of C with Python's headers, as Triton does, before long work starts.

    Args:
        what: needs the compiler; begins the message.

    Raises:
        InputError: there is no compiler or no header; the message names both remedies.
    """
    remedy = (
        "Use the project's gpu environment (--sdm conda, or the image of workflow/envs/gpu.def), or install gcc and "
        "Python's headers on the nodes with GPUs, or set CC to a compiler there."
    )
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise InputError(f"{what} needs a C compiler on a GPU, and none was found on this machine. {remedy}")
    # Triton's own choice: Debian's default scheme points to a folder without the headers of the system's Python.
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    include = sysconfig.get_paths(scheme=scheme)["include"]
    try:
        subprocess.run(
            [compiler, f"-I{include}", "-fsyntax-only", "-x", "c", "-"],
            input="#include <Python.h>\n", text=True, capture_output=True, check=True, timeout=120,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
        raise InputError(f"{what} needs a C compiler on a GPU, and {compiler} fails here ({said}). {remedy}") from error
