# Test events of another run, again with each nuisance; and, in place of the report, a page of systematic uncertainties.

SYSTEMATICS_PAGE = [
    "workflow/src/nuvlm/report/systematics.html.j2",
    "workflow/src/nuvlm/report/page.css",
]


rule select_events:
    """Take test events of another run out of their voxel shards."""
    input:
        **CHOSEN_EVENTS,
        voxels=all_events,
    output:
        "<results>/voxels/{shard}.h5",
    log:
        "<results>/logs/select_events/{shard}.log",
    benchmark:
        "<results>/benchmarks/select_events/{shard}.tsv"
    wildcard_constraints:
        # Others are simulated.
        shard=rf"{NOMINAL}\..+" if CONFIG.input.source == "simulate" else ".+",
    conda:
        "../envs/cpu.yaml"
    container:
        image("cpu")
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(30),
    params:
        code=code("select_events.py"),
        shards=varied_shards,
        detector=CONFIG.detector.model_dump(mode="json"),
        on_bad_event=CONFIG.input.on_bad_event,
        on_missing_event=missing_events,
    script:
        "../scripts/select_events.py"


rule measure_systematics:
    """Shifts of every efficiency with each nuisance, their covariance, and a page of them."""
    input:
        prediction_tables(),
        events="<results>/events.parquet",
        # The final states of the nominal events.
        voxels=[
            voxel_file(variation_shard(NOMINAL, shard))
            for shard in CONFIG.systematics.shards
        ],
        template=list(map(untimed, SYSTEMATICS_PAGE)),
    output:
        page="<results>/report/index.html",
        data="<results>/report/systematics.json",
        shifts="<results>/report/shifts.csv",
        covariance="<results>/report/covariance.csv",
    log:
        "<results>/logs/measure_systematics.log",
    benchmark:
        "<results>/benchmarks/measure_systematics.tsv"
    conda:
        "../envs/report.yaml"
    container:
        image("report")
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(60),
    params:
        code=code("measure_systematics.py", files=SYSTEMATICS_PAGE),
        predictions={
            model: predictions_of(model)[CONFIG.conditions[0]] for model in MODELS
        },
        detector=CONFIG.detector.model_dump(mode="json"),
        config=CONFIG.model_dump(mode="json"),
        with_own_voxels=sorted(WITH_OWN_VOXELS),
    script:
        "../scripts/measure_systematics.py"
