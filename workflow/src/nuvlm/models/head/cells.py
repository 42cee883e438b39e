"""Cells of occlusion maps, for those that make maps and those that read them (without torch)."""

CELLS = 8
"""Cells along a side of a view."""


def cell_pixels(size: int) -> int:
    """Side of a square cell of views of `size` pixels. Cells begin at the first pixel; the last ones may stick out."""
    return -(-size // CELLS)
