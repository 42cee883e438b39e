"""The list of a run's pixel-map stores, ``pixelmaps.json``: where each is, the digest of its manifest, and settings.

It is written once, with the event table. A job that reads pixel maps depends on this one file, not on every store.
Nothing heavy is imported: the rules read the list while they are parsed.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nuvlm.base.errors import InputError, remake
from nuvlm.base.files import read_json, sha256, write_json
from nuvlm.base.manifest import MANIFEST


def write_store_list(path: Path, stores: Mapping[str, Path], made_with: Mapping[str, Any] | None = None) -> None:
    """Write the list (docs/formats.md).

    Args:
        path: the list, in the folder of the run.
        stores: shard name -> pixel-map store, of this run or another.
        made_with: what the stores and the event table were made with, as plain values
            (nuvlm.workflow.paths.making_events); None if that is not known.
    """
    listed = {
        shard: {"path": os.path.relpath(store, path.parent), "manifest": sha256(store / MANIFEST)}
        for shard, store in stores.items()
    }
    write_json(path, {"stores": listed, "made_with": made_with}, sealed=True)


def read_made_with(path: Path) -> dict[str, Any] | None:
    """What the stores and the event table were made with; None if the list does not say.

    Raises:
        InputError: the list is missing or damaged.
    """
    made_with = read_json(path).get("made_with")
    return made_with if isinstance(made_with, dict) else None


def read_store_list(path: Path, *, verify: bool = True) -> dict[str, Path]:
    """Shard name -> pixel-map store.

    Args:
        path: what :func:`write_store_list` wrote.
        verify: compare the manifest of every store with its digest. The manifest has the digests of all other files,
            which are checked when they are read.

    Raises:
        InputError: the list is missing or damaged; or a store is missing, or is not the one that was listed.
    """
    stores = {}
    try:
        for shard, entry in read_json(path)["stores"].items():
            stores[shard] = Path(os.path.normpath(path.parent / entry["path"]))
            if verify:
                _check_store(stores[shard], entry["manifest"], path)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a list of stores ({error!r}). {remake(path)}") from error
    return stores


def _check_store(store: Path, digest: str, path: Path) -> None:
    try:
        found = sha256(store / MANIFEST)
    except OSError as error:
        raise InputError(f"{store / MANIFEST}: missing or unreadable ({error.strerror}). {remake(store)}") from error
    if found != digest:
        raise InputError(f"{store}: not the pixel maps that {path} lists. {remake(path)}")
