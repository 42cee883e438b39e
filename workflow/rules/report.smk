# From predictions to the report.
from nuvlm.evaluation.names import figure_names

PREDICTIONS = {
    model: {
        condition: [
            f"results/{CONFIG.run}/predictions/{model}/{condition}/{part}.parquet"
            for part in PARTS
        ]
        for condition in conditions
    }
    for model, conditions in CONDITIONS.items()
}
TRAINING = {
    model: f"results/{CONFIG.models_from or CONFIG.run}/models/{model}/training.json"
    for model in MODELS
}
# Why the models say so, where that is asked for.
RATIONALES = {
    model: [
        f"results/{CONFIG.run}/explanations/{model}/{part}.parquet" for part in PARTS
    ]
    for model in MODELS
    if model.startswith("vlm") and CONFIG.report.explain
}
HEAT = [
    f"results/{CONFIG.run}/explanations/cnn/{part}.zarr"
    for part in PARTS
    if CONFIG.report.explain
]
FIGURES = expand(
    "<results>/figures/{name}",
    name=figure_names(MODELS, CONFIG.conditions, RATIONALES),
)


rule evaluate:
    """Score every model under every condition on the test split, and compare them, and what their rationales are worth."""
    input:
        prediction_tables(),
        list(RATIONALES.values()),
        [layout.store_files(store, layout.CAM_ARRAYS) for store in HEAT],
        events="<results>/events.parquet",
        code=code("evaluate.py"),
    output:
        "<results>/evaluation/scores.json",
    log:
        "<results>/logs/evaluate.log",
    benchmark:
        "<results>/benchmarks/evaluate.tsv"
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(60),
    params:
        predictions=PREDICTIONS,
        explanations=RATIONALES,
        heat=HEAT,
    script:
        "../scripts/evaluate.py"


rule draw_figures:
    """Draw the figures of the report."""
    input:
        list(TRAINING.values()),
        scores="<results>/evaluation/scores.json",
        code=code("draw_figures.py"),
    output:
        report(
            FIGURES,
            caption="../report/figures.rst",
            category="Figures",
        ),
    log:
        "<results>/logs/draw_figures.log",
    benchmark:
        "<results>/benchmarks/draw_figures.tsv"
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(30),
    params:
        training=TRAINING,
    script:
        "../scripts/draw_figures.py"


rule draw_gallery:
    """Draw chosen events, worst failures first: their displays, or pixel maps where these were made elsewhere."""
    input:
        prediction_tables(),
        list(RATIONALES.values()),
        [layout.store_files(store, layout.CAM_ARRAYS) for store in HEAT],
        (
            expand(
                "<results>/displays/{shard}.zarr/{view}/c/0/0/0",
                shard=SHARDS,
                view=["xz", "yz"],
            )
            if CONFIG.input.has_voxels
            else []
        ),
        # Where the maps of where the CNN looks lie in a display, or what is drawn itself.
        pixel_map_stores() if HEAT or not CONFIG.input.has_voxels else [],
        events="<results>/events.parquet",
        code=code("draw_gallery.py"),
    output:
        "<results>/figures/gallery.json",
    log:
        "<results>/logs/draw_gallery.log",
    benchmark:
        "<results>/benchmarks/draw_gallery.tsv"
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(30),
    params:
        predictions={
            model: tables[CONFIG.conditions[0]]
            for model, tables in PREDICTIONS.items()
        },
        stores=stores("displays" if CONFIG.input.has_voxels else "pixelmaps"),
        displays=CONFIG.input.has_voxels,
        events=CONFIG.report.gallery,
        explanations=RATIONALES,
        heat=HEAT,
        pixelmaps=stores("pixelmaps"),
    script:
        "../scripts/draw_gallery.py"


rule write_report:
    """Write the report: one self-contained page, and every number on it as JSON."""
    input:
        prediction_tables(),
        list(TRAINING.values()),
        FIGURES,
        scores="<results>/evaluation/scores.json",
        gallery="<results>/figures/gallery.json",
        published="resources/published.yaml",
        template=[
            f"workflow/src/nuvlm/report/{name}"
            for name in ("page.html.j2", "page.css", "page.js")
        ],
        code=code("write_report.py"),
    output:
        page=report(
            "<results>/report/index.html",
            caption="../report/page.rst",
            category="Report",
        ),
        data="<results>/report/report.json",
    log:
        "<results>/logs/write_report.log",
    benchmark:
        "<results>/benchmarks/write_report.tsv"
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(30),
    params:
        predictions=PREDICTIONS,
        training=TRAINING,
        config=CONFIG.model_dump(mode="json"),
    script:
        "../scripts/write_report.py"
