# The classical control: a boosted tree on features of the pixel maps.

if CONFIG.models_from is None:

    rule train_bdt:
        """Train a gradient-boosted tree on features made by hand, stopping early on the validation loss."""
        input:
            events="<results>/events.parquet",
            pixelmaps=pixel_map_stores(),
        output:
            "<results>/models/bdt/model.safetensors",
            "<results>/models/bdt/manifest.json",
            training="<results>/models/bdt/training.json",
        log:
            "<results>/logs/train_bdt.log",
        benchmark:
            "<results>/benchmarks/train_bdt.tsv"
        conda:
            "../envs/report.yaml"
        threads: 1
        resources:
            mem_mb=scaled(4000),
            runtime=scaled(120),
        params:
            code=code("train_bdt.py"),
            settings=CONFIG.bdt.model_dump(mode="json", exclude={"classify_batch_size"}),
            stores=stores("pixelmaps"),
        script:
            "../scripts/train_bdt.py"


rule classify_bdt:
    """Classify one part of the events with the boosted tree, under one condition."""
    input:
        model="<models>/bdt/training.json",
        weights="<models>/bdt/model.safetensors",
        events="<results>/events.parquet",
        pixelmaps=pixel_map_stores(),
    output:
        "<results>/predictions/bdt/{condition}/{part}.parquet",
        "<results>/predictions/bdt/{condition}/{part}.json",
    log:
        "<results>/logs/classify_bdt/{condition}/{part}.log",
    benchmark:
        "<results>/benchmarks/classify_bdt/{condition}/{part}.tsv"
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(60),
    params:
        code=code("classify_bdt.py"),
        batch_size=CONFIG.bdt.classify_batch_size,
        stores=stores("pixelmaps"),
    script:
        "../scripts/classify_bdt.py"
