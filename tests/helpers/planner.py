"""Snakemake's command line without its start-up: each call is a fork of one process that has imported it.

A dry-run in a new process takes three times the CPU time, most of it to import Snakemake and to parse the
package for the digests of the code. The forks parse the Snakefile, the configuration and edited modules themselves.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Planner:
    """Snakemake in one checkout, which may be edited between calls."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """What ``snakemake`` prints with these arguments.

        Raises:
            AssertionError: it fails and `check` is set.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(arguments) + "\n")
        self._server.stdin.flush()
        status, output = json.loads(self._server.stdout.readline())
        assert not check or status == 0, output
        return output


@contextmanager
def start_planner(checkout: Path) -> Iterator[Planner]:
    """A planner for a copy of the workflow, with the package in that copy."""
    with subprocess.Popen(
        [sys.executable, __file__], cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(checkout / "workflow" / "src")},
    ) as server:  # fmt: skip
        yield Planner(server)
        assert server.stdin is not None
        server.stdin.close()


def _serve() -> None:
    """Answer each line of arguments with a line that has the exit status and the output."""
    import snakemake.cli

    from nuvlm.workflow import code_digest

    for script in sorted(Path("workflow/scripts").glob("*.py")):
        code_digest.code_digest(script)
    # The forks read all files anew, and parse those that have changed.
    code_digest._read.cache_clear()
    code_digest._path.cache_clear()
    for line in sys.stdin:
        output = Path(".planner-output")
        child = os.fork()
        if child == 0:
            with output.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            status = 1
            try:
                snakemake.cli.main(json.loads(line))
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps([status, output.read_text()]), flush=True)
        output.unlink()


if __name__ == "__main__":
    _serve()
