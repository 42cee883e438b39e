"""Where the checkout lies, and the sample files beside it that some tests use and skip without."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
SHARED = REPOSITORY.parent / "shared" / "data"
