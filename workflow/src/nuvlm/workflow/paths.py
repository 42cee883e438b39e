"""Where things lie in a run, and which code a job depends on: what the rules ask while they are parsed."""

import tempfile
from pathlib import Path

from nuvlm.base.errors import InputError
from nuvlm.workflow.config import Config

# Zarr arrays of the stores and how many dimensions they have.
DISPLAY_ARRAYS = {"xz": 3, "yz": 3, "event_id": 1, "vertex_mm": 2, "visible_energy": 1, "edge_energy": 1}


PIXEL_MAP_ARRAYS = {"images": 4, "corner_mm": 2, "event_id": 1, "visible_energy": 1, "edge_energy": 1}


CAM_ARRAYS = {"maps": 4, "peak": 1, "fall": 2, "event_id": 1}


def cores(gpus: int) -> int:
    """Threads of a job: eight a GPU. On a CPU one, as small jobs side by side beat threads within one."""
    return max(1, 8 * gpus)


def cnns(config: Config) -> tuple[str, ...]:
    """Models of the CNN, one a recipe."""
    return tuple(f"cnn_{recipe}" for recipe in config.cnn.recipe_names)


def models(config: Config) -> tuple[str, ...]:
    """All models of a run, in the order in which the report has them."""
    return (*cnns(config), "bdt", "vlm")


def explained_models(config: Config) -> tuple[str, ...]:
    """Those that show their reasons."""
    return (*cnns(config), "vlm")


def base_model(config: Config) -> str:
    """Folder of the base model: of the run where it is made from scratch, shared between runs where it is fetched."""
    if config.vlm.base == "hub":
        hub = config.vlm.hub
        tiles = "as-published" if hub.max_tiles is None else f"{hub.max_tiles}tile"
        return f"results/hub/{hub.model.replace('/', '--')}/{hub.revision.replace('/', '--')}-{tiles}"
    return f"results/{config.models_from or config.run}/models/base"


def check_models(config: Config) -> None:
    """Check that the run whose models this one uses, if any, has them.

    Raises:
        InputError: naming the run and the models it lacks.
    """
    if config.models_from is None:
        return
    folder = Path("results", config.models_from, "models")
    missing = [model for model in models(config) if not (folder / model / "training.json").is_file()]
    if missing:
        raise InputError(
            f"models_from: there is no finished model in {folder} ({', '.join(missing)} missing). Finish that run "
            "first, name another one, or leave models_from out to train; a CNN that it was to have none of is left out "
            "with cnn.recipes.<name>: null."
        )
    exports = [folder / f"{cnn}_onnx" / "model.onnx" for cnn in cnns(config)]
    lacking = [str(path) for path in exports if not path.is_file()]
    if config.cnn.classify_backend == "onnx" and lacking:
        raise InputError(
            f"models_from: there is no {', no '.join(lacking)}. Make it (snakemake {' '.join(lacking)} --config "
            f"run={config.models_from}), or set cnn.classify_backend to torch."
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


def store_files(store: str, arrays: dict[str, int]) -> list[str]:
    """Every file of a Zarr store with one shard file an array.

    Rules name them all: Snakemake does not see inside a ``directory()``.
    """
    files = [f"{store}/zarr.json", f"{store}/manifest.json"]
    for name, dimensions in arrays.items():
        files += [f"{store}/{name}/zarr.json", f"{store}/{name}/c/{'/'.join('0' * dimensions)}"]
    return files
