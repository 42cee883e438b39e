"""Where the checkout lies, a copy of it to work in, and the sample files that some tests use and skip without."""

import shutil
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared" / "data"


def copy_workflow(folder: Path) -> Path:
    """Copy all that Snakemake needs into `folder`, so that a test may edit and run it.

    ``__pycache__`` goes with it: compiling with Numba again takes ten seconds a copy. Python and Numba compare the
    times and sizes of the sources, which a copy keeps.
    """
    for name in ("workflow", "config", "resources", "profiles"):
        shutil.copytree(REPOSITORY / name, folder / name)
    for name in ("Snakefile", ".gitattributes", ".git_archival.txt"):
        shutil.copy(REPOSITORY / name, folder)
    return folder
