# The Siamese CNN, a model for each recipe that it is trained with.

ONNX = CONFIG.cnn.classify_backend == "onnx"
# Training shares its batches over all GPUs; what follows has one event in hand, or a few.
ONE_GPU = min(CONFIG.cnn.gpus, 1)
# They change no result.
HOW_DATA_ARE_READ = {"memory_mb", "workers"}


if CONFIG.models_from is None:

    rule train_cnn:
        """Train the Siamese CNN by one recipe, stopping early on the validation loss."""
        input:
            events="<results>/events.parquet",
            pixelmaps=pixel_map_stores(),
        output:
            "<results>/models/{cnn}/model.safetensors",
            "<results>/models/{cnn}/manifest.json",
            training="<results>/models/{cnn}/training.json",
        log:
            "<results>/logs/train_cnn/{cnn}.log",
        benchmark:
            "<results>/benchmarks/train_cnn/{cnn}.tsv"
        conda:
            "../envs/gpu.yaml"
        threads: cores(CONFIG.cnn.gpus)
        resources:
            # what the pixel maps may take, and the network with its batches in each process
            mem_mb=scaled(CONFIG.cnn.memory_mb + 8000 * CONFIG.cnn.processes),
            runtime=scaled(720),
            gpu=CONFIG.cnn.gpus,
        params:
            code=code("train_cnn.py"),
            settings=lambda wildcards: CONFIG.cnn.training(
                wildcards.cnn.removeprefix("cnn_")
            ).model_dump(mode="json", exclude=HOW_DATA_ARE_READ),
            # A function of resources, so that Snakemake does not count a change as a reason to train again.
            reading=lambda wildcards, resources: CONFIG.cnn.model_dump(
                include=HOW_DATA_ARE_READ
            ),
            stores=stores("pixelmaps"),
            # Beside the output: Snakemake deletes outputs before a retry.
            checkpoint=lambda wildcards: f"results/{CONFIG.run}/checkpoints/{wildcards.cnn}.pt",
            tensorboard=lambda wildcards: f"results/{CONFIG.run}/tensorboard/{wildcards.cnn}",
        script:
            "../scripts/train_cnn.py"

    rule export_cnn:
        """Write a CNN as ONNX, checked against torch."""
        input:
            training="<results>/models/{cnn}/training.json",
            weights="<results>/models/{cnn}/model.safetensors",
        output:
            "<results>/models/{cnn}_onnx/model.onnx",
            "<results>/models/{cnn}_onnx/manifest.json",
        log:
            "<results>/logs/export_cnn/{cnn}.log",
        benchmark:
            "<results>/benchmarks/export_cnn/{cnn}.tsv"
        conda:
            "../envs/gpu.yaml"
        threads: 1
        resources:
            mem_mb=scaled(4000),
            runtime=scaled(30),
        params:
            code=code("export_cnn.py"),
        script:
            "../scripts/export_cnn.py"


rule classify_cnn:
    """Classify one part of the events with a CNN, under one condition."""
    input:
        model="<models>/{cnn}/training.json",
        weights="<models>/{cnn}/model.safetensors",
        export="<models>/{cnn}_onnx/model.onnx" if ONNX else [],
        events="<results>/events.parquet",
        pixelmaps=pixel_map_stores(),
    output:
        "<results>/predictions/{cnn}/{condition}/{part}.parquet",
        "<results>/predictions/{cnn}/{condition}/{part}.json",
    log:
        "<results>/logs/classify_cnn/{cnn}/{condition}/{part}.log",
    benchmark:
        "<results>/benchmarks/classify_cnn/{cnn}/{condition}/{part}.tsv"
    conda:
        "../envs/gpu.yaml"
    threads: cores(0 if ONNX else ONE_GPU)
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(60),
        gpu=0 if ONNX else ONE_GPU,
    params:
        code=code("classify_cnn.py"),
        batch_size=CONFIG.cnn.classify_batch_size,
        stores=stores("pixelmaps"),
    script:
        "../scripts/classify_cnn.py"


rule explain_cnn:
    """Show where a CNN looks in those events of one part that are explained."""
    input:
        list(explained_predictions("{part}").values()),
        model="<models>/{cnn}/training.json",
        weights="<models>/{cnn}/model.safetensors",
        events="<results>/events.parquet",
        pixelmaps=pixel_map_stores(),
    output:
        paths.store_files("<results>/explanations/{cnn}/{part}.zarr", paths.CAM_ARRAYS),
    log:
        "<results>/logs/explain_cnn/{cnn}/{part}.log",
    benchmark:
        "<results>/benchmarks/explain_cnn/{cnn}/{part}.tsv"
    conda:
        "../envs/gpu.yaml"
    threads: cores(ONE_GPU)
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(60),
        gpu=ONE_GPU,
    params:
        code=code("explain_cnn.py"),
        events=EXPLAINED,
        seed=CONFIG.dataset.seed,
        stores=stores("pixelmaps"),
        predictions=lambda wildcards: explained_predictions(wildcards.part),
        store=lambda wildcards: f"results/{CONFIG.run}/explanations/{wildcards.cnn}/{wildcards.part}.zarr",
    script:
        "../scripts/explain_cnn.py"
