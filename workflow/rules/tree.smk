# The classical control: a boosted tree on features of the pixel maps.

if CONFIG.models_from is None:

    rule train_tree:
        """Train a gradient-boosted tree on features made by hand, stopping early on the validation loss."""
        input:
            events="<results>/events.parquet",
            pixelmaps=pixel_map_stores(),
            code=code("train_tree.py"),
        output:
            "<results>/models/tree/model.safetensors",
            "<results>/models/tree/manifest.json",
            training="<results>/models/tree/training.json",
        log:
            "<results>/logs/train_tree.log",
        benchmark:
            "<results>/benchmarks/train_tree.tsv"
        conda:
            "../envs/report.yaml"
        threads: 1
        resources:
            mem_mb=scaled(4000),
            runtime=scaled(120),
        params:
            settings=CONFIG.tree.model_dump(
                mode="json", exclude={"classify_batch_size"}
            ),
            stores=stores("pixelmaps"),
        script:
            "../scripts/train_tree.py"


rule classify_tree:
    """Classify one part of the events with the boosted tree, under one condition."""
    input:
        model="<models>/tree/training.json",
        weights="<models>/tree/model.safetensors",
        events="<results>/events.parquet",
        pixelmaps=pixel_map_stores(),
        code=code("classify_tree.py"),
    output:
        "<results>/predictions/tree/{condition}/{part}.parquet",
        "<results>/predictions/tree/{condition}/{part}.json",
    log:
        "<results>/logs/classify_tree/{condition}/{part}.log",
    benchmark:
        "<results>/benchmarks/classify_tree/{condition}/{part}.tsv"
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(60),
    params:
        batch_size=CONFIG.tree.classify_batch_size,
        stores=stores("pixelmaps"),
    script:
        "../scripts/classify_tree.py"
