"""Snakemake's command line without its start-up: each call is a fork of one process that has imported it.

A dry-run in a new process takes five times the CPU time, most of it for imports and to parse the package for the
digests of the code. The forks parse the Snakefile and the configuration themselves, and for the digests edited modules;
an edited module is not imported again. Jobs that they run are new processes.
"""

import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Planner:
    """Snakemake in one checkout, which may be edited between calls."""

    seconds: float
    """CPU time of the last call."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """What ``snakemake`` prints with these arguments.

        Raises:
            AssertionError: it fails; or, where `check` is not set, it does not.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(arguments) + "\n")
        self._server.stdin.flush()
        status, output, self.seconds = json.loads(self._server.stdout.readline())
        assert (status == 0) == check, output
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
    """Answer each line of arguments with a line that has the exit status, the output and the CPU time."""
    import snakemake.cli

    from nuvlm.workflow import code_digest

    package = code_digest.PACKAGE
    for module in package.rglob("*.py"):
        name = ".".join((package.name, *module.relative_to(package).with_suffix("").parts))
        analysed = code_digest._analysed(name, module.read_text())
        for definition in analysed.bindings:
            analysed.source(definition)
            analysed.uses(definition)
    code_digest._path.cache_clear()
    _import_what_a_dry_run_imports()
    snakemake.cli.get_argument_parser()  # registers the plugins
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
        _, ended, usage = os.wait4(child, 0)
        seconds = usage.ru_utime + usage.ru_stime
        print(json.dumps([os.waitstatus_to_exitcode(ended), output.read_text(), seconds]), flush=True)
        output.unlink()


def _import_what_a_dry_run_imports() -> None:
    """Only the modules: the dry-run is that of a fork, so no state of Snakemake's stays here."""
    import snakemake.cli

    names = Path(".planner-modules")
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        with suppress(BaseException):
            snakemake.cli.main(["--cores", "1", "--dry-run", "--config", "run=imports", "report={explain: 0}"])
        names.write_text("\n".join(sys.modules))
        os._exit(0)
    os.waitpid(child, 0)
    for name in names.read_text().split():
        with suppress(ImportError):
            importlib.import_module(name)
    names.unlink()


if __name__ == "__main__":
    _serve()
