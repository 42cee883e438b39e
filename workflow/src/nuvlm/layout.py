"""Where things lie in a run, and which code a job depends on: what the rules ask while they are parsed."""

import ast
import glob
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nuvlm.config import Config
from nuvlm.errors import InputError

PACKAGE = Path(__file__).parent
# Edits of these change no result, so they rerun nothing.
WITHOUT_EFFECT = {PACKAGE / "logs.py", PACKAGE / "errors.py"}
# Zarr arrays of the stores and how many dimensions they have.
DISPLAY_ARRAYS = {"xz": 3, "yz": 3, "event_id": 1, "vertex_mm": 2}
PIXEL_MAP_ARRAYS = {"images": 4, "event_id": 1, "corner_mm": 2}
CAM_ARRAYS = {"maps": 4, "peak": 1, "fall": 2, "event_id": 1}


def list_shards(config: Config) -> dict[str, str]:
    """Shard name -> input file, in order; the file is empty for simulated shards.

    Raises:
        InputError: a file or glob that matches nothing, or two files of one name.
    """
    if config.input.source == "simulate":
        simulate = config.input.simulate
        return {f"sim{i:05d}": "" for i in range(-(-simulate.events // simulate.events_per_shard))}
    shards: dict[str, str] = {}
    for file in _input_files(config):
        name = shard_name(file)
        if name in shards and Path(shards[name]).resolve() != Path(file).resolve():
            raise InputError(
                f"input.files: {shards[name]} and {file} would both be shard '{name}'. Rename one of them."
            )
        shards[name] = file
    return shards


def genie_files(config: Config) -> list[str]:
    """GENIE's files, in the order of their events; none where final states are sampled.

    Raises:
        InputError: a file or glob that matches nothing.
    """
    return _input_files(config) if config.input.simulate.final_states == "genie" else []


def _input_files(config: Config) -> list[str]:
    files: list[str] = []
    for pattern in config.input.files:
        # A plain path may hold characters that a glob would interpret.
        found = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))
        if not found:
            raise InputError(f"input.files: '{pattern}' matches no file. Check the path.")
        files += found
    return files


def shard_name(file: str) -> str:
    """A file's name without its suffix.

    Raises:
        InputError: a name that cannot be one of a shard.
    """
    name = Path(file).stem
    if not name or not all(character.isalnum() or character in "_-." for character in name) or name.startswith("."):
        raise InputError(
            f"input.files: '{file}' cannot name a shard: use letters, digits, '_', '-' and '.' alone, "
            "for example in a link to the file"
        )
    return name


def simulated_events(config: Config, shard: str) -> tuple[int, int]:
    """First event and number of events of a simulated shard."""
    simulate = config.input.simulate
    first = int(shard.removeprefix("sim")) * simulate.events_per_shard
    return first, min(simulate.events_per_shard, simulate.events - first)


def cores(gpus: int) -> int:
    """Threads of a job: eight a GPU. On a CPU one, as small jobs side by side beat threads within one."""
    return max(1, 8 * gpus)


def cnns(config: Config) -> tuple[str, ...]:
    """Models of the CNN, one a recipe."""
    return tuple(f"cnn_{recipe}" for recipe in config.cnn.recipe_names)


def models(config: Config) -> tuple[str, ...]:
    """All models of a run, in the order in which the report has them."""
    return (*cnns(config), "tree", "vlm")


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


def modules_of(script: Path) -> list[str]:
    """The modules of this package that a script imports, directly or not, sorted.

    They are inputs of the script's rule: Snakemake compares small files by content, so an edit reruns what depends
    on the module and nothing else. Imports for type checking alone do not count.
    """
    found: set[Path] = set()
    queue = [script]
    while queue:
        for module in _imports(queue.pop()):
            if module not in found and module not in WITHOUT_EFFECT:
                found.add(module)
                queue.append(module)
    return sorted(str(module) for module in found)


def _imports(file: Path) -> Iterator[Path]:
    for node in _runtime_nodes(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # "from nuvlm.vlm import training" names a module, "from nuvlm.classes import CLASSES" does not
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == PACKAGE.name:
                path = PACKAGE.joinpath(*parts[1:]).with_suffix(".py") if len(parts) > 1 else PACKAGE / "__init__.py"
                if path.is_file():
                    yield path


def _runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below ``if TYPE_CHECKING:``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from _runtime_nodes(node)
