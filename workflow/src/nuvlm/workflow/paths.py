"""Files of a run: what Zarr stores consist of, and checks of folders before any job starts."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from nuvlm.base.errors import InputError
from nuvlm.dataset.store_list import read_store_list
from nuvlm.models.table import family_name
from nuvlm.workflow.config import Config

# Zarr arrays of the stores and how many dimensions they have.
DISPLAY_ARRAYS = {"xz": 3, "yz": 3, "event_id": 1, "vertex_mm": 2, "visible_energy": 1, "edge_energy": 1}
PIXEL_MAP_ARRAYS = {"images": 4, "corner_mm": 2, "event_id": 1, "visible_energy": 1, "edge_energy": 1}
PIXEL_MAP_ARRAYS |= {"centred_by": 1, "window_share": 1}
CAM_ARRAYS = {"maps": 4, "peak": 1, "fall": 2, "event_id": 1}
LISTED = {"manifest": "manifest.json", "images": "images/c/0/0/0/0"}
"""Files of a pixel-map store that list_events has among its inputs, to stand for the store."""


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
            "first, name another one, or leave models_from out to train. A CNN that the other run lacks is left "
            "out with cnn.recipes.<name>: null, and seeds may be fewer."
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
