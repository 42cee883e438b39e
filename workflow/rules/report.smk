# From predictions to the report.
from nuvlm.report.names import figures_of

PREDICTIONS = {model: predictions_of(model) for model in MODELS}
# Model -> those of its further trainings.
REPEATS = {
    model: [predictions_of(training) for training in trainings[1:]]
    for model, trainings in TRAININGS.items()
}
TRAINING = {
    model: f"results/{CONFIG.models_from or CONFIG.run}/models/{model}/training.json"
    for model in MODELS
}
RATIONALES = explanations("rationales")
SALIENCY = explanations("saliency")
PUBLISHED = "resources/published.yaml"
TEMPLATE = [
    f"workflow/src/nuvlm/report/{name}"
    for name in (
        "page.html.j2",
        "page.css",
        "elements.js",
        "state.js",
        "tables.js",
        "choices.js",
        "display.js",
        "event_browser.js",
    )
]
FIGURES = figures_of(
    MODELS,
    CONFIG.conditions,
    RATIONALES,
    counterfactuals=CONFIG.input.simulate.counterfactuals,
)


rule evaluate:
    """Score every model under every condition on the test split, and compare the models, and measure their rationales."""
    input:
        prediction_tables(),
        list(RATIONALES.values()),
        [explanation_files(*stores) for stores in SALIENCY.values()],
        events="<results>/events.parquet",
        spectrum=CONFIG.report.spectrum or [],
        pixelmaps=(
            "<results>/pixelmaps.json" if CONFIG.input.simulate.counterfactuals else []
        ),
    output:
        "<results>/evaluation/scores.json",
    log:
        "<results>/logs/evaluate.log",
    benchmark:
        "<results>/benchmarks/evaluate.tsv"
    conda:
        "../envs/report.yaml"
    container:
        image("report")
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(60),
    params:
        code=code("evaluate.py"),
        predictions=PREDICTIONS,
        repeats=REPEATS,
        level=CONFIG.report.coverage,
        explanations=RATIONALES,
        saliency=SALIENCY,
    script:
        "../scripts/evaluate.py"


rule draw_figures:
    """Draw the figures of the report: SVG for the page, PDF for papers."""
    input:
        list(TRAINING.values()),
        scores="<results>/evaluation/scores.json",
    output:
        pages=figure_files(FIGURES, ".svg"),
        papers=figure_files(FIGURES, ".pdf"),
    log:
        "<results>/logs/draw_figures.log",
    benchmark:
        "<results>/benchmarks/draw_figures.tsv"
    conda:
        "../envs/report.yaml"
    container:
        image("report")
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(30),
    params:
        code=code("draw_figures.py"),
        training=TRAINING,
    script:
        "../scripts/draw_figures.py"


rule collect_events:
    """Collect the events of the event browser: displays, or pixel maps made elsewhere."""
    input:
        prediction_tables(further=False),
        list(RATIONALES.values()),
        [explanation_files(*stores) for stores in SALIENCY.values()],
        display_files,
        events="<results>/events.parquet",
        # Pixel maps locate saliency maps within the display, or are shown if there are no displays.
        pixelmaps="<results>/pixelmaps.json",
    output:
        "<results>/figures/events.json",
    log:
        "<results>/logs/collect_events.log",
    benchmark:
        "<results>/benchmarks/collect_events.tsv"
    conda:
        "../envs/report.yaml"
    container:
        image("report")
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(30),
    params:
        code=code("collect_events.py"),
        predictions={
            model: tables[CONFIG.conditions[0]]
            for model, tables in PREDICTIONS.items()
        },
        displays=(f"{EVENTS_FOLDER}/displays" if CONFIG.input.has_voxels else None),
        events=CONFIG.report.browser,
        seed=CONFIG.dataset.seed,
        explanations=RATIONALES,
        saliency=SALIENCY,
    script:
        "../scripts/collect_events.py"


rule write_report:
    """Write the report: one self-contained page, its numbers as JSON, and LaTeX tables."""
    input:
        prediction_tables(further=False),
        list(TRAINING.values()),
        figure_files(FIGURES, ".svg"),
        scores="<results>/evaluation/scores.json",
        browser="<results>/figures/events.json",
        published=untimed(PUBLISHED),
        template=list(map(untimed, TEMPLATE)),
    output:
        page=report(
            "<results>/report/index.html",
            caption="../report/page.rst",
            category="Report",
            labels={"file": "the report, one page"},
        ),
        data=report(
            "<results>/report/report.json",
            caption="../report/data.rst",
            category="Report",
            labels={"file": "every number, JSON"},
        ),
        tables=report(
            "<results>/report/tables.tex",
            caption="../report/tables.rst",
            category="Report",
            labels={"file": "the tables, LaTeX"},
        ),
    log:
        "<results>/logs/write_report.log",
    benchmark:
        "<results>/benchmarks/write_report.tsv"
    conda:
        "../envs/report.yaml"
    container:
        image("report")
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(30),
    params:
        code=code("write_report.py", files=[PUBLISHED, *TEMPLATE]),
        predictions=PREDICTIONS,
        training=TRAINING,
        config=CONFIG.model_dump(mode="json"),
    script:
        "../scripts/write_report.py"
