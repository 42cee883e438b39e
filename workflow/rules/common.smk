# The checked configuration, and what several rules ask for.
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

SOURCE = Path(workflow.basedir) / "workflow" / "src"
SCRIPTS = Path(workflow.basedir) / "workflow" / "scripts"
# Jobs find the package in this checkout, installed or not.
sys.path.insert(0, str(SOURCE))

from nuvlm.workflow import paths, shards
from nuvlm.workflow.code_digest import code_digest
from nuvlm.models.table import FAMILIES, conditions_of, family_name, family_of, title
from nuvlm.workflow.config import parse_config
from nuvlm.workflow.plan import expected_seconds
from nuvlm.base.errors import InputError
from nuvlm.report.names import figure_name, words
from nuvlm.evaluation.spectrum import read_spectrum

try:
    CONFIG = parse_config(config)
    SHARDS = shards.list_shards(CONFIG)
    paths.check_models(CONFIG)
    if CONFIG.report.spectrum is not None:
        read_spectrum(CONFIG.report.spectrum)
except InputError as error:
    raise WorkflowError(str(error)) from None


onstart:
    try:
        paths.check_writable(CONFIG)
    except InputError as error:
        raise WorkflowError(str(error)) from None
    # For the console (profiles/local), which gives the time left.
    targets = dict.fromkeys(["all", "pixelmaps", "predictions", "explanations"], 0)
    seconds = expected_seconds(CONFIG, len(SHARDS)) | targets
    logger.info("", extra={"expected_seconds": seconds})


MODELS = CONFIG.models
CONDITIONS = {model: conditions_of(model, CONFIG.conditions) for model in MODELS}
PARTS = range(CONFIG.dataset.parts)
# Of each part.
EXPLAINED = -(-CONFIG.report.explain // CONFIG.dataset.parts)
# Where logs and benchmarks of classification lie.
PREDICTION = (
    "{model}/{part}" if CONFIG.conditions_in_one_job else "{model}/{condition}/{part}"
)


pathvars:
    results=f"results/{CONFIG.run}",
    models=f"results/{CONFIG.models_from or CONFIG.run}/models",


wildcard_constraints:
    shard="[^/]+",
    condition="[a-z0-9_]+",
    part=r"\d+",


def code(script, *entries):
    """Digest of the code that a rule computes with; `entries` are definitions that its script looks up by name."""
    return code_digest(SCRIPTS / script, *entries)


def scaled(amount):
    """A resource that grows with each attempt."""
    return lambda wildcards, attempt: amount * attempt


def voxel_shard(wildcards):
    """The voxel shard of {shard}: made here, or the user's own where it lies."""
    if CONFIG.input.source == "voxels":
        return SHARDS[wildcards.shard]
    return "<results>/voxels/{shard}.h5"


def voxel_shards(wildcards=None):
    if CONFIG.input.source == "voxels":
        return list(SHARDS.values())
    return expand("<results>/voxels/{shard}.h5", shard=SHARDS)


def pixel_map_store():
    return paths.store_files("<results>/pixelmaps/{shard}.zarr", paths.PIXEL_MAP_ARRAYS)


def pixel_map_stores():
    """What stands for all pixel maps among a job's inputs: naming every file would make large DAGs slow."""
    images = "<results>/pixelmaps/{shard}.zarr/images"
    return expand([f"{images}/zarr.json", f"{images}/c/0/0/0/0"], shard=SHARDS)


def display_store():
    return paths.store_files("<results>/displays/{shard}.zarr", paths.DISPLAY_ARRAYS)


def stores(kind):
    """Shard name -> store, as a rule's parameter: inputs name the files inside."""
    return {shard: f"results/{CONFIG.run}/{kind}/{shard}.zarr" for shard in SHARDS}


def trained_models():
    """Models trained here. They are targets of their own: a deleted one is trained again, though the report is current."""
    if CONFIG.models_from is not None:
        return []
    return [
        *(
            f"<models>/{model}/{file}"
            for model in MODELS
            for file in (family_of(model).weights, "manifest.json", "training.json")
        ),
        f"{CONFIG.vlm.base_folder}/manifest.json",
    ]


def prediction_tables():
    tables = "<results>/predictions/{model}/{condition}/{part}.{kind}"
    return [
        path
        for model, conditions in CONDITIONS.items()
        for path in expand(
            tables,
            model=model,
            condition=conditions,
            part=PARTS,
            kind=["parquet", "json"],
        )
    ]


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
    models = f"results/{CONFIG.models_from or CONFIG.run}/models"
    return lambda wildcards: {
        name: path.replace("<models>", models).format(model=wildcards.model)
        for name, path in of_request(kind, "inputs")(wildcards).items()
    }


# Of explanations: a store of saliency maps, or a table of rationales.
SUFFIXES = {"saliency": ".zarr", "rationales": ".parquet"}


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
