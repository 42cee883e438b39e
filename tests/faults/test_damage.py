"""Files that one stage writes for another, damaged at random: the reader reports it, or reads the original content."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from nuvlm.base.errors import InputError
from small_run import Product, SmallRun, Tally

pytestmark = pytest.mark.faults
PRODUCTS = (
    "voxel shard", "display store", "pixel-map store", "event table", "CNN checkpoint", "VLM checkpoint", "CNN weights",
    "base model", "adapter", "predictions", "cost", "rationales", "maps of the CNN", "scores", "events to browse",
    "figure",
)  # fmt: skip
FLIPS, CUTS = 40, 12
"""Of each product: 640 flipped bits in all."""


@contextmanager
def damaged(file: Path, content: bytes | None) -> Iterator[None]:
    """`file` with other bytes, or away if None."""
    original = file.read_bytes()
    try:
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        yield
    finally:
        file.write_bytes(original)


def outcome(product: Product, file: Path, content: bytes | None, expected: object) -> str:
    """``noticed`` where the reader names the file or its folder, ``harmless`` where it reads what was written."""
    with damaged(file, content):
        try:
            found = product.read()
        except InputError as error:
            return "noticed" if str(product.path) in str(error) else "lost"
    return "harmless" if found == expected else "lost"


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_flipped_bit_is_noticed_or_changes_nothing(small_run: SmallRun, tally: Tally, name: str) -> None:
    product = small_run.products[name]
    expected, files = product.read(), product.files()
    rng = np.random.default_rng(PRODUCTS.index(name))
    lost = []
    for i in range(FLIPS):
        file = files[i % len(files)]
        content = bytearray(file.read_bytes())
        bit = int(rng.integers(8 * len(content)))
        content[bit // 8] ^= 1 << bit % 8
        end = outcome(product, file, bytes(content), expected)
        tally.add("flipped bit", name, end)
        if end == "lost":
            lost.append(f"{file}: bit {bit}")
    assert not lost


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_cut_empty_or_missing_file_is_noticed(small_run: SmallRun, tally: Tally, name: str) -> None:
    product = small_run.products[name]
    expected, files = product.read(), product.files()
    rng = np.random.default_rng(PRODUCTS.index(name))
    lost = []
    for i in range(max(CUTS, len(files))):
        file = files[i % len(files)]
        whole = file.read_bytes()
        for fault, content in (("cut short", whole[: int(rng.integers(1, len(whole)))]), ("emptied", b"")):
            end = outcome(product, file, content, expected)
            tally.add(fault, name, end)
            if end != "noticed":
                lost.append(f"{file}: {fault} to {len(content)} bytes of {len(whole)}")
    for file in files:
        end = outcome(product, file, None, expected)
        if file.name == "fingerprint.json":
            # It is written last: a checkpoint without it was cut short, and the one before is gone on from.
            end = {"lost": "noticed"}[end]
        tally.add("missing", name, end)
        if end != "noticed":
            lost.append(f"{file}: missing")
    assert not lost
