"""On PYTHONPATH: every job of a workflow records which definitions of the package it calls.

The functions of ``nuvlm`` get a first statement that notes the name of the function, or of the class of a method, so
only calls of the package cost time. Functions compiled by Numba are not recorded. A process that a job starts counts
for the job.
"""

import ast
import atexit
import builtins
import importlib.machinery
import os
import re
import sys
from pathlib import Path
from types import CodeType

CALLED: set[str] = set()
JOB = re.compile(r"\.snakemake/scripts/\w+\.(\w+\.py)")
RECORD = "_record_call"


def _record(tree: ast.Module, module: str) -> None:
    for top in tree.body:
        if not isinstance(top, ast.FunctionDef | ast.ClassDef):
            continue
        for function in ast.walk(top):
            if isinstance(function, ast.FunctionDef) and not any(
                re.search("jit|cfunc", ast.unparse(decorator)) for decorator in function.decorator_list
            ):
                call = ast.parse(f"{RECORD}({module + ':' + top.name!r})").body
                described = ast.get_docstring(function, clean=False) is not None
                function.body[described:described] = call
    ast.fix_missing_locations(tree)


def _get_code(loader: importlib.machinery.SourceFileLoader, name: str) -> CodeType:
    if not name.startswith("nuvlm."):
        return _original(loader, name)
    tree = ast.parse(Path(loader.path).read_bytes())
    _record(tree, name)
    return compile(tree, loader.path, "exec", dont_inherit=True)


def _write() -> None:
    path = Path(os.environ["RECORDED_CALLS"], f"{os.environ['RECORDED_JOB']}.{os.getpid()}")
    path.write_text("\n".join(sorted(CALLED)))


for _argument in sys.orig_argv:
    if _job := JOB.search(_argument):
        os.environ["RECORDED_JOB"] = _job[1]
if "RECORDED_JOB" in os.environ:
    setattr(builtins, RECORD, CALLED.add)
    _original = importlib.machinery.SourceFileLoader.get_code
    importlib.machinery.SourceFileLoader.get_code = _get_code  # type: ignore[method-assign, assignment]
    atexit.register(_write)
