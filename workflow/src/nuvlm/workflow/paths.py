"""Files of a run: what Zarr stores consist of, and checks of folders before any job starts."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from nuvlm.base.errors import InputError
from nuvlm.base.files import sha256
from nuvlm.base.settings import flatten
from nuvlm.dataset.store_list import read_made_with, read_store_list
from nuvlm.models.table import family_name
from nuvlm.workflow.config import Config

# Zarr arrays of the stores and how many dimensions they have.
DISPLAY_ARRAYS = {"xz": 3, "yz": 3, "event_id": 1, "vertex_mm": 2, "visible_energy": 1, "edge_energy": 1}
PIXEL_MAP_ARRAYS = {"images": 4, "corner_mm": 2, "event_id": 1, "visible_energy": 1, "edge_energy": 1}
PIXEL_MAP_ARRAYS |= {"centred_by": 1, "window_share": 1}
CAM_ARRAYS = {"maps": 4, "peak": 1, "fall": 2, "event_id": 1}
LISTED = {"manifest": "manifest.json", "images": "images/c/0/0/0/0"}
"""Files of a pixel-map store that list_events has among its inputs, to stand for the store."""
CHOOSING = ("models_from", "events_from", "dataset.train_events")
"""Keys of :func:`making_events` by which a run chooses among the events of another."""
MISSING = object()


def check_models(config: Config) -> None:
    """Check that the run whose models this one uses, if any, has them.

    Raises:
        InputError: naming the run and what it lacks.
    """
    if config.models_from is None:
        return
    folder = f"results/{config.models_from}/models"
    trainings = [name for names in config.trainings.values() for name in names]
    missing = [name for name in trainings if not Path(folder, name, "training.json").is_file()]
    if missing:
        raise InputError(
            f"models_from: there is no finished model in {folder} ({', '.join(missing)} missing). Finish that run "
            "first, name another one, or leave models_from out to train. What the other run lacks is left "
            "out with cnn.recipes.<name>: null or <family>.enabled: false, and seeds may be fewer."
        )
    inputs = {model: config.families[family_name(model)].classification().inputs.values() for model in trainings}
    # A base model of the hub can still be fetched.
    needed = [
        path.replace("<models>", folder).format(model=model)
        for model, paths in inputs.items()
        for path in (name.replace("<base>", config.vlm.base_folder) for name in paths)
        if path.startswith("<models>")
    ]
    lacking = list(dict.fromkeys(path for path in needed if not Path(path).is_file()))
    if lacking:
        raise InputError(
            f"models_from: there is no {', no '.join(lacking)}. Make it with: snakemake {' '.join(lacking)} --config "
            f"run={config.models_from}"
        )


def check_events(config: Config) -> None:
    """Check that the run whose events this one takes, if any, has them, made with the settings of this one.

    Raises:
        InputError: naming the run, and what it lacks or the settings that differ.
    """
    name = config.events_from
    if name is None:
        return
    folder = Path("results", name)
    made_by = f"Make them with: snakemake pixelmaps --config run={name}, with the configuration files of that run."
    needed = [folder / file for file in ("events.parquet", "pixelmaps.json")]
    if missing := [str(path) for path in needed if not path.is_file()]:
        raise InputError(f"events_from: run '{name}' has no finished events ({', '.join(missing)} missing). {made_by}")
    stores = read_store_list(needed[1], verify=False).values()
    if gone := [path for store in stores for file in LISTED.values() if not (path := store / file).exists()]:
        raise InputError(f"events_from: run '{name}' has lost pixel maps: {gone[0]} is missing. {made_by}")
    shown = config.report.browser and config.input.has_voxels
    displays = [folder / "displays" / store.name / view / "c/0/0/0" for store in stores for view in ("xz", "yz")]
    if shown and (gone := [path for path in displays if not path.exists()]):
        raise InputError(
            f"events_from: run '{name}' has lost displays, which the report shows: {gone[0]} is missing. Set "
            f"report.browser to 0, or make it with: snakemake {gone[0]} --config run={name}, with the "
            "configuration files of that run."
        )
    there = read_made_with(needed[1])
    if there is None:
        raise InputError(f"events_from: Run '{name}' again: its list does not say what it was made with ({needed[1]}).")
    if there.get("events_from") is not None:
        raise InputError(f"events_from: run '{name}' takes its events from '{there['events_from']}': name that one.")
    if there.get("models_from") is not None:
        raise InputError(
            f"events_from: run '{name}' has no events to train on, as it has models_from. Name another run."
        )
    if there.get("dataset.train_events") is not None:
        raise InputError(f"events_from: run '{name}' has dataset.train_events itself. Name a run with all events.")
    differing = [
        f"{key} is {value}, there {there.get(key, 'not stated')}"
        for key, value in making_events(config).items()
        if key not in CHOOSING and value != there.get(key, MISSING)
    ]
    if differing:
        raise InputError(
            f"events_from: the events of run '{name}' were made with other settings: {'; '.join(differing)}. Set them "
            "as there, or make events with these: leave out events_from."
        )


def making_events(config: Config) -> dict[str, Any]:
    """Key, with dots, and value of the settings that event table and pixel maps depend on, as plain values.

    Those that have no effect with the source are not among them. A map of space charge stands for its content.

    Raises:
        InputError: the map cannot be read.
    """
    sections = config.model_dump(mode="json", include={"models_from", "events_from", "input", "detector"})
    if config.input.source != "simulate":
        del sections["input"]["simulate"]
    if config.input.has_voxels:
        sections |= {"display": config.display.model_dump(mode="json"), "pixelmap": config.pixelmap.of_maps}
        space_charge = config.display.readout.space_charge
        if space_charge.map is not None and space_charge.has_effects:
            try:
                digest = sha256(space_charge.map)
            except OSError as error:
                raise InputError(
                    f"{space_charge.map}: cannot be read ({error.strerror}). Check the path in "
                    "display.readout.space_charge.map."
                ) from error
            sections["display"]["readout"]["space_charge"]["map"] = f"a file with the SHA-256 {digest}"
    # The number of parts concerns inference.
    sections["dataset"] = config.dataset.model_dump(include={"validation", "test", "seed", "train_events"})
    return dict(flatten(sections))


def check_writable(config: Config) -> None:
    """Check that the run's folder can be written, before any job finds out.

    Raises:
        InputError: it cannot.
    """
    folder = Path("results", config.run)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}). Check its permissions and the disk, or run in a checkout "
            "elsewhere."
        ) from error


def remove_outdated_list(config: Config) -> None:
    """Remove the list of pixel-map stores of a run if a store in it is no longer there.

    Jobs that read pixel maps have only the list among their inputs. Without the list, the first of them that has to
    run makes Snakemake make the list again, and before it what is missing; if none has to run, nothing is made.
    """
    path = Path("results", config.run, "pixelmaps.json")
    try:
        stores = read_store_list(path, verify=False)
    except InputError:  # there is none; or it is damaged, and the first job that reads it says so
        return
    if not all(os.path.exists(f"{store}/{file}") for store in stores.values() for file in LISTED.values()):
        with suppress(OSError):  # results of another user: nothing can run there
            path.unlink()


def store_files(store: str, arrays: dict[str, int]) -> list[str]:
    """Every file of a Zarr store with one shard file an array.

    Rules name them all: Snakemake does not see inside a ``directory()``.
    """
    files = [f"{store}/zarr.json", f"{store}/manifest.json"]
    for name, dimensions in arrays.items():
        files += [f"{store}/{name}/zarr.json", f"{store}/{name}/c/{'/'.join('0' * dimensions)}"]
    return files
