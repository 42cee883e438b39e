"""LArCV and SPINE files of all layouts: which one a file has, by its content."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nuvlm.base.errors import InputError
from nuvlm.base.hdf5 import open_hdf5
from nuvlm.sources import larcv_hdf5, larcv_root, spine_hdf5
from nuvlm.sources.hdf5_rows import explained
from nuvlm.sources.rootfile import open_root
from nuvlm.sources.voxel_images import ImageFile, is_charge, is_label

ROOT, HDF5 = b"root", b"\x89HDF\r\n\x1a\n"


@contextmanager
def open_images(path: Path, product: str | None, drifted: bool) -> Iterator[ImageFile]:
    """The images of a LArCV or SPINE file.

    Args:
        product: the product to read, or None for the usual one.
        drifted: whether charge that was read out is wanted, or true deposits.

    Raises:
        InputError: the file cannot be read, is not of this kind, or lacks such a product.
    """
    if _magic(path) == ROOT:
        with open_root(path) as file:
            if not larcv_root.all_products(file.keys(cycle=False)):
                raise InputError(f"{path}: ROOT without trees of LArCV (found: {_some(file.keys(cycle=False))}).")
            yield larcv_root.read_larcv2(path, file, product, drifted)
        return
    with open_hdf5(path) as file:
        with explained(path, "the list of tables"):
            read = (
                larcv_hdf5.read_larcv3
                if larcv_hdf5.is_larcv3(file)
                else spine_hdf5.read_spine
                if spine_hdf5.is_spine(file)
                else None
            )
            names = list(file)
        if read is None:
            raise InputError(f"{path}: HDF5 of neither LArCV nor SPINE (found: {_some(names)}).")
        with explained(path, "the tables of images"):
            images = read(path, file, product, drifted)
        yield images


def recognise(path: Path, drifted: bool) -> str | None:
    """Describe a LArCV or SPINE file that has images of this kind; or none at all, if `drifted` is false."""
    try:
        if _magic(path) == ROOT:
            with open_root(path) as file:
                names = larcv_root.all_products(file.keys(cycle=False))
            layout = "LArCV 1 ROOT" if any(name.startswith(larcv_root.LARCV1) for name in names) else larcv_root.LAYOUT
        else:
            with open_hdf5(path) as file:
                if larcv_hdf5.is_larcv3(file):
                    layout, names = larcv_hdf5.LAYOUT, larcv_hdf5.all_products(file)
                elif spine_hdf5.is_spine(file):
                    layout, names = spine_hdf5.layout(file), spine_hdf5.all_products(file)
                else:
                    return None
    except Exception:  # of another kind, or damaged: described by no one
        return None
    images = [name for name in names if name.startswith(("sparse3d", "cluster3d")) or name in spine_hdf5.POINTS]
    energies = [name for name in images if not is_label(name)]
    mine = [name for name in energies if is_charge(name) == drifted]
    if mine:
        return f"{layout}: {', '.join(mine)}"
    return f"{layout}; not read: {_some(names)}" if names and not energies and not drifted else None


def _magic(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path in input.files.")
    with open(path, "rb") as file:
        return file.read(4)


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "") or "nothing"
