# NuVLM: from detector voxels to a report that compares a vision-language model with a CNN.
# The rules are in workflow/rules/, the logic in the package workflow/src/nuvlm/.
from snakemake.utils import min_version

min_version("9.27")


# The user's, or where the working directory has none, the default.
DEFAULTS = "config/config.yaml"
if not exists(DEFAULTS):
    DEFAULTS = workflow.source_path(DEFAULTS)


configfile: DEFAULTS


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/input.smk"
include: "workflow/rules/images.smk"
include: "workflow/rules/events.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/cnn.smk"
include: "workflow/rules/vlm.smk"
include: "workflow/rules/report.smk"


localrules:
    all,
    pixelmaps,
    predictions,
    explanations,


rule all:
    """The report of the run, and everything that it needs."""
    default_target: True
    input:
        "<results>/report/index.html",
        "<results>/report/report.json",
        trained_models(),


rule pixelmaps:
    """Preprocessing only: the pixel maps of all shards and the event table."""
    input:
        # A function, as only this target names every file of the stores.
        lambda wildcards: expand(pixel_map_store(), shard=SHARDS),
        "<results>/events.parquet",


rule predictions:
    """Predictions of all models under all conditions, without the report."""
    input:
        prediction_tables(),
        trained_models(),


rule explanations:
    """Rationales of the VLM, without the report."""
    input:
        [
            explanation_files(explanation_path(model, part))
            for model in CONFIG.explained_models
            for part in PARTS
        ],
