# The checked configuration, and what several rules ask for.
import gc
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

# Snakemake makes millions of objects that stay: fewer searches for cycles among them take a sixth off the planning.
gc.set_threshold(200_000, 20, 100)


def find_checkout(rules):
    """The folder of the whole repository that `rules`, the folder of this file, belongs to.

    Snakemake fetches single files of a module in a git repository. The package is needed, too: the commit is unpacked
    below the working directory, where jobs find it.
    """
    if isinstance(rules, os.PathLike):
        return Path(rules).parents[1]
    if hasattr(rules, "repo_path"):
        repository = rules.repo_path
    elif hasattr(rules, "hosted_repo"):
        repository = rules.hosted_repo.repo.git_dir
    else:
        raise WorkflowError(
            f"{rules}: NuVLM needs its whole repository. Clone it, and name the path of the clone's Snakefile."
        )
    git = ["git", "-C", str(repository)]
    commit = subprocess.check_output(
        [*git, "rev-parse", f"{rules.ref}^{{commit}}"], text=True
    ).strip()
    folder = Path(".snakemake/nuvlm", commit).resolve()
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        archive = io.BytesIO(subprocess.check_output([*git, "archive", commit]))
        partial = Path(tempfile.mkdtemp(dir=folder.parent))
        tarfile.open(fileobj=archive).extractall(partial, filter="data")
        partial.chmod(0o755)
        partial.rename(folder)
    return folder


if workflow.modifier.path_modifier.replace_prefix("results/") != "results/":
    raise WorkflowError(
        "module NuVLM: prefix and replace_prefix move the files of its rules, and not those that its parameters name. "
        "Leave them out: `run` in its configuration names the folder, results/{run}."
    )
# Not workflow.basedir, which is another workflow's folder where this one is used as a module.
CHECKOUT = find_checkout(workflow.current_basedir)
SOURCE = CHECKOUT / "workflow" / "src"
SCRIPTS = CHECKOUT / "workflow" / "scripts"
# This process and its jobs use the package of this checkout, whatever is installed. Jobs need the variable: Snakemake
# appends to the path of a script, so an installed package would come first.
sys.path.insert(0, str(SOURCE))
os.environ.update(
    PYTHONPATH=os.pathsep.join(filter(None, [str(SOURCE), os.getenv("PYTHONPATH")]))
)
# The logger plugin may have imported an installed one.
for name in [name for name in sys.modules if name.partition(".")[0] == "nuvlm"]:
    if SOURCE not in Path(sys.modules[name].__file__).parents:
        del sys.modules[name]

from nuvlm.workflow import frozen, paths, shards
from nuvlm.workflow.code_digest import code_digest
from nuvlm.models.table import (
    FAMILIES,
    SUFFIXES,
    conditions_of,
    family_name,
    family_of,
    title,
)
from nuvlm.workflow.config import check_space_charge, parse_config
from nuvlm.workflow.plan import RATES, expected_seconds
from nuvlm.base.errors import InputError
from nuvlm.base.files import sha256
from nuvlm.report.names import figure_name, words
from nuvlm.evaluation.nuisances import NOMINAL, split_variation, variation_shard
from nuvlm.evaluation.spectrum import read_spectrum

try:
    # A job of a cluster parses the rules again, with what its run was planned with.
    PLANNED = None if workflow.is_main_process else frozen.read_frozen(config)
    if PLANNED is None:
        checked = parse_config(config)
        # Before the shards, which are those of the other run.
        paths.check_events(checked)
        PLANNED = frozen.Frozen(
            checked, shards.list_shards(checked), shards.genie_files(checked), {}
        )
    CONFIG, SHARDS = PLANNED.config, PLANNED.shards
    # Variation -> its configuration; those that act before the voxels.
    VARIATIONS, WITH_OWN_VOXELS = {}, frozenset()
    if CONFIG.systematics is not None:
        VARIATIONS = {name: CONFIG.variation(name) for name in CONFIG.variations}
        WITH_OWN_VOXELS = CONFIG.with_own_voxels
    if workflow.is_main_process:
        paths.check_models(CONFIG)
        if CONFIG.report.spectrum is not None:
            read_spectrum(CONFIG.report.spectrum)
        check_space_charge([CONFIG, *VARIATIONS.values()])
        paths.remove_outdated_list(CONFIG)
except InputError as error:
    raise WorkflowError(str(error)) from None


def at_start(record):
    """Freeze what is planned when Snakemake logs what it is going to run; it has locked the working directory then.

    A filter of its logger, as the handlers of a module and with --no-hooks are not called.
    """
    planned = getattr(record, "event", None) == LogEvent.RUN_INFO
    if planned and workflow.is_main_process and not workflow.dryrun:
        try:
            paths.check_writable(CONFIG)
            frozen.freeze(PLANNED)
        except InputError as error:
            raise WorkflowError(str(error)) from None
    return True


logger.addFilter(at_start)


onstart:
    # For the console (profiles/local), which gives the time left.
    targets = dict.fromkeys(["all", "pixelmaps", "predictions", "explanations"], 0)
    seconds = expected_seconds(CONFIG, len(SHARDS), own(RATES)) | targets
    logger.info("", extra={"expected_seconds": seconds})


MODELS = CONFIG.models
CONDITIONS = {model: conditions_of(model, CONFIG.conditions) for model in MODELS}
TRAININGS = CONFIG.trainings
PARTS = range(CONFIG.dataset.parts)
# Of each part.
EXPLAINED = -(-CONFIG.report.explain // CONFIG.dataset.parts)
# Where logs and benchmarks of classification lie.
PREDICTION = (
    "{model}/{part}" if CONFIG.conditions_in_one_job else "{model}/{condition}/{part}"
)


MODELS_FOLDER = f"results/{CONFIG.models_from or CONFIG.run}/models"
# Where displays and pixel maps are made, or have been.
EVENTS_FOLDER = f"results/{CONFIG.events_from or CONFIG.run}"
BASE = CONFIG.vlm.base_folder.replace("<models>", MODELS_FOLDER)


pathvars:
    results=f"results/{CONFIG.run}",
    models=MODELS_FOLDER,
    base=BASE,


wildcard_constraints:
    shard="[^/]+",
    condition="[a-z0-9_]+",
    part=r"\d+",


def own(path):
    """A file that comes with the workflow: in the working directory, or else in the checkout."""
    elsewhere = CHECKOUT / path
    return str(elsewhere if elsewhere.exists() and not Path(path).exists() else path)


def untimed(path):
    """An input that comes with the workflow, a text say: its content is in the digest of the code, its time is ignored.

    The files of a fresh clone are newer than results that are copied to it.
    """
    return ancient(own(path))


def code(script, *entries, files=()):
    """Digest of what a rule computes with.

    `entries` are definitions that its script looks up by name, `files` those that it reads and that are `untimed`.
    """
    key = " ".join([script, *entries, *files])
    if key not in PLANNED.code:
        existing = [path for path in map(own, files) if Path(path).is_file()]
        digests = [code_digest(SCRIPTS / script, *entries), *map(sha256, existing)]
        PLANNED.code[key] = " ".join(digests)
    return PLANNED.code[key]


def texts(request):
    """Inputs of a model's job that come with the workflow."""
    return [
        path
        for path in request.inputs.values()
        if not path.startswith(("<models>", "<base>", "results/"))
    ]


def further_inputs(request):
    """All of them, as a rule's inputs."""
    own_texts = texts(request)
    return [
        untimed(path) if path in own_texts else path for path in request.inputs.values()
    ]


def image(environment):
    """The image that has a rule's environment, for `--sdm apptainer`: built from workflow/envs/Containerfile (docs/sites.md)."""
    stack = "gpu" if environment == "gpu" else "cpu"
    path = str(CHECKOUT / "workflow" / "envs" / f"{stack}.sif")
    # Snakemake refuses paths with spaces, also where no image is used.
    return None if re.search(r"\s", path) else path


def scaled(amount):
    """A resource that grows with each attempt."""
    return lambda wildcards, attempt: amount * attempt


def of_attempt(amount, resumes):
    """A resource of a training: the same at each attempt if it resumes."""
    return amount if resumes else scaled(amount)


def pixel_map_store():
    return paths.store_files("<results>/pixelmaps/{shard}.zarr", paths.PIXEL_MAP_ARRAYS)


# Inputs of all shards are functions: jobs of other rules, which parse the rules again on a cluster, need none of them.
def truth_files(wildcards):
    """The truth of all shards: voxel shards, or the tables beside ready pixel maps."""
    if CONFIG.input.has_voxels:
        return list(map(voxel_file, SHARDS))
    return expand("<results>/truth/{shard}.parquet", shard=SHARDS)


def pixel_map_files(kind):
    """A file of each pixel-map store, by its key in paths.LISTED; only list_events reads them all."""
    return lambda wildcards: [
        f"<results>/pixelmaps/{shard}.zarr/{paths.LISTED[kind]}" for shard in SHARDS
    ]


def made_with(wildcards, resources):
    """What list_events and take_events write for other runs, which may take the events.

    A function of resources is not tracked. What changes events reruns their rules by other parameters and
    inputs; input.files may name the same files differently.
    """
    return paths.making_events(CONFIG)


def display_files(wildcards):
    """The views of all displays; none where the source is ready pixel maps, or the report shows no event."""
    if not (CONFIG.input.has_voxels and CONFIG.report.browser):
        return []
    view = f"{EVENTS_FOLDER}/displays/{{shard}}.zarr/{{view}}/c/0/0/0"
    return expand(view, shard=SHARDS, view=["xz", "yz"])


def display_store():
    return paths.store_files("<results>/displays/{shard}.zarr", paths.DISPLAY_ARRAYS)


def trained_models():
    """Models trained here. They are targets of their own: a deleted one is trained again, though the report is current."""
    if CONFIG.models_from is not None:
        return []
    return [
        *(
            f"<models>/{training}/{file}"
            for model, trainings in TRAININGS.items()
            for training in trainings
            for file in (family_of(model).weights, "manifest.json", "training.json")
        ),
        *([f"{BASE}/manifest.json"] if CONFIG.uses_base else []),
    ]


def prediction_tables(further=True):
    """Of all trainings, or of the first of each model."""
    tables = "<results>/predictions/{training}/{condition}/{part}.{kind}"
    return [
        path
        for model, conditions in CONDITIONS.items()
        for path in expand(
            tables,
            training=TRAININGS[model] if further else model,
            condition=conditions,
            part=PARTS,
            kind=["parquet", "json"],
        )
    ]


def predictions_of(training):
    """Condition -> prediction tables of a training."""
    return {
        condition: [
            f"results/{CONFIG.run}/predictions/{training}/{condition}/{part}.parquet"
            for part in PARTS
        ]
        for condition in conditions_of(training, CONFIG.conditions)
    }


def explained_predictions(part):
    """Model -> the predictions of a part that say which of its events are explained."""
    return {
        model: f"results/{CONFIG.run}/predictions/{model}/{CONFIG.conditions[0]}/{part}.parquet"
        for model in MODELS
    }


def of_request(kind, what):
    """A part of what a model's job asks for (nuvlm.models.jobs), as a rule's parameter; `kind` is training, say."""

    def parameter(wildcards):
        section = CONFIG.families[family_name(wildcards.model)]
        model = [wildcards.model] if kind == "training" else []
        return dict(getattr(getattr(section, kind)(*model), what))

    return parameter


def request_inputs(kind):
    """The further inputs of a model's job: name -> path."""
    return lambda wildcards: {
        name: own(
            path.replace("<base>", BASE)
            .replace("<models>", MODELS_FOLDER)
            .format(model=wildcards.model)
        )
        for name, path in of_request(kind, "inputs")(wildcards).items()
    }


def explanation_path(model, part):
    """The store or table of explanations of a model and part."""
    suffix = SUFFIXES[family_of(model).explains]
    return f"results/{CONFIG.run}/explanations/{model}/{part}{suffix}"


def explanation_files(*stores):
    """Every file of stores of saliency maps (.zarr), and tables of rationales as they are."""
    return [
        file
        for path in stores
        for file in (
            paths.store_files(path, paths.CAM_ARRAYS)
            if path.endswith(".zarr")
            else [path]
        )
    ]


def explanations(kind):
    """Model -> its explanations of all parts, for the models that have that kind."""
    return {
        model: [explanation_path(model, part) for part in PARTS]
        for model in CONFIG.explained_models
        if family_of(model).explains == kind
    }


def figure_files(figures, format):
    """Every one of `figures`, with its caption and its place in `snakemake --report`."""
    files = []
    for figure in figures:
        path = Path("<results>/figures", figure_name(*figure)).with_suffix(format)
        place = {
            "caption": f"../report/{figure.kind}.rst",
            "category": "Figures",
            "subcategory": words(figure.kind),
            "labels": {
                "model": title(figure.model) if figure.model else "all",
                "condition": words(figure.condition or "all"),
                "format": format[1:].upper(),
            },
        }
        # Of a line that begins with "report" Snakemake makes another thing.
        files += [report(str(path), **place)]
    return files
