# The Siamese CNN.

ONNX = CONFIG.cnn.classify_backend == "onnx"


if CONFIG.models_from is None:

    rule train_cnn:
        """Train the Siamese CNN, stopping early on the validation loss."""
        input:
            events="<results>/events.parquet",
            pixelmaps=pixel_map_stores(),
            code=code("train_cnn.py"),
        output:
            "<results>/models/cnn/model.safetensors",
            "<results>/models/cnn/manifest.json",
            training="<results>/models/cnn/training.json",
        log:
            "<results>/logs/train_cnn.log",
        benchmark:
            "<results>/benchmarks/train_cnn.tsv"
        conda:
            "../envs/gpu.yaml"
        threads: cores(CONFIG.cnn.gpus)
        resources:
            mem_mb=scaled(16000),
            runtime=scaled(720),
            gpu=CONFIG.cnn.gpus,
        params:
            settings=CONFIG.cnn.model_dump(
                mode="json",
                exclude={"classify_batch_size", "classify_backend", "gpus"},
            ),
            stores=stores("pixelmaps"),
            # Beside the output: Snakemake deletes outputs before a retry.
            checkpoint=f"results/{CONFIG.run}/checkpoints/cnn.pt",
            tensorboard=f"results/{CONFIG.run}/tensorboard/cnn",
        script:
            "../scripts/train_cnn.py"

    rule export_cnn:
        """Write the CNN as ONNX, checked against torch."""
        input:
            training="<results>/models/cnn/training.json",
            weights="<results>/models/cnn/model.safetensors",
            code=code("export_cnn.py"),
        output:
            "<results>/models/cnn_onnx/model.onnx",
            "<results>/models/cnn_onnx/manifest.json",
        log:
            "<results>/logs/export_cnn.log",
        benchmark:
            "<results>/benchmarks/export_cnn.tsv"
        conda:
            "../envs/gpu.yaml"
        threads: 1
        resources:
            mem_mb=scaled(4000),
            runtime=scaled(30),
        script:
            "../scripts/export_cnn.py"


rule classify_cnn:
    """Classify one part of the events with the CNN, under one condition."""
    input:
        model="<models>/cnn/training.json",
        weights="<models>/cnn/model.safetensors",
        export="<models>/cnn_onnx/model.onnx" if ONNX else [],
        events="<results>/events.parquet",
        pixelmaps=pixel_map_stores(),
        code=code("classify_cnn.py"),
    output:
        "<results>/predictions/cnn/{condition}/{part}.parquet",
        "<results>/predictions/cnn/{condition}/{part}.json",
    log:
        "<results>/logs/classify_cnn/{condition}/{part}.log",
    benchmark:
        "<results>/benchmarks/classify_cnn/{condition}/{part}.tsv"
    conda:
        "../envs/gpu.yaml"
    threads: cores(0 if ONNX else CONFIG.cnn.gpus)
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(60),
        gpu=0 if ONNX else CONFIG.cnn.gpus,
    params:
        batch_size=CONFIG.cnn.classify_batch_size,
        stores=stores("pixelmaps"),
    script:
        "../scripts/classify_cnn.py"


rule explain_cnn:
    """Show where the CNN looks in those events of one part that are explained."""
    input:
        list(explained_predictions("{part}").values()),
        model="<models>/cnn/training.json",
        weights="<models>/cnn/model.safetensors",
        events="<results>/events.parquet",
        pixelmaps=pixel_map_stores(),
        code=code("explain_cnn.py"),
    output:
        layout.store_files("<results>/explanations/cnn/{part}.zarr", layout.CAM_ARRAYS),
    log:
        "<results>/logs/explain_cnn/{part}.log",
    benchmark:
        "<results>/benchmarks/explain_cnn/{part}.tsv"
    conda:
        "../envs/gpu.yaml"
    threads: cores(CONFIG.cnn.gpus)
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(60),
        gpu=CONFIG.cnn.gpus,
    params:
        events=EXPLAINED,
        seed=CONFIG.dataset.seed,
        stores=stores("pixelmaps"),
        predictions=lambda wildcards: explained_predictions(wildcards.part),
        store=lambda wildcards: f"results/{CONFIG.run}/explanations/cnn/{wildcards.part}.zarr",
    script:
        "../scripts/explain_cnn.py"
