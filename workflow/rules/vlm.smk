# The vision-language model.

SCRATCH_FILES = ["config.json", "manifest.json", "model.safetensors", "tokenizer.json"]
BASE = paths.base_model(CONFIG)


if CONFIG.models_from is None and CONFIG.vlm.base == "scratch":

    rule build_base_model:
        """Make a tiny Mllama from nothing and pre-train it on geometric shapes and their descriptions."""
        input:
            prompts=CONFIG.vlm.prompts,
            vocabulary=CONFIG.vlm.vocabulary,
            chat_template="resources/chat_templates/mllama.jinja",
            # Ready pixel maps tell how many views there are; ancient, as more of them do not change that.
            pixelmaps=(
                []
                if CONFIG.input.has_voxels
                else ancient(
                    f"<results>/pixelmaps/{next(iter(SHARDS))}.zarr/zarr.json"
                )
            ),
        output:
            [f"{BASE}/{name}" for name in SCRATCH_FILES],
        log:
            "<results>/logs/build_base_model.log",
        benchmark:
            "<results>/benchmarks/build_base_model.tsv"
        # Long, and the fine-tuning waits for it: first, while events are simulated.
        priority: 1
        conda:
            "../envs/gpu.yaml"
        threads: 1
        resources:
            mem_mb=scaled(8000),
            runtime=scaled(120),
        params:
            code=code("build_base_model.py"),
            settings=CONFIG.vlm.scratch.model_dump(mode="json"),
            tensorboard=f"results/{CONFIG.run}/tensorboard/base",
        script:
            "../scripts/build_base_model.py"


if CONFIG.vlm.base == "hub":

    rule fetch_base_model:
        """Download the pinned revision of the base model, once; runs where Snakemake runs, as compute nodes are offline."""
        input:
            chat_templates=sorted(
                map(str, Path("resources/chat_templates").glob("*.jinja"))
            ),
        output:
            f"{BASE}/manifest.json",
        log:
            "<results>/logs/fetch_base_model.log",
        benchmark:
            "<results>/benchmarks/fetch_base_model.tsv"
        localrule: True
        conda:
            "../envs/gpu.yaml"
        threads: 1
        resources:
            mem_mb=scaled(4000),
            runtime=scaled(240),
        params:
            code=code("fetch_base_model.py"),
            settings=CONFIG.vlm.hub.model_dump(mode="json"),
        script:
            "../scripts/fetch_base_model.py"


if CONFIG.models_from is None:

    rule finetune_vlm:
        """Fine-tune low-rank adapters on the quantised base model with TRL's SFTTrainer."""
        input:
            base=f"{BASE}/manifest.json",
            events="<results>/events.parquet",
            pixelmaps=pixel_map_stores(),
            prompts=CONFIG.vlm.prompts,
            vocabulary=(
                CONFIG.vlm.vocabulary
                if CONFIG.vlm.finetune.rationales == "grounded"
                else []
            ),
            deepspeed=(
                f"resources/deepspeed/zero{CONFIG.vlm.finetune.zero_stage}.json"
                if CONFIG.vlm.finetune.strategy == "deepspeed"
                else []
            ),
        output:
            "<results>/models/vlm/adapter_model.safetensors",
            "<results>/models/vlm/manifest.json",
            training="<results>/models/vlm/training.json",
        log:
            "<results>/logs/finetune_vlm.log",
        benchmark:
            "<results>/benchmarks/finetune_vlm.tsv"
        conda:
            "../envs/gpu.yaml"
        threads: cores(CONFIG.vlm.finetune.gpus)
        resources:
            mem_mb=scaled(16000 + 32000 * CONFIG.vlm.finetune.gpus),
            # Not scaled: a retry goes on from the checkpoint, and twice the time would be beyond many a partition.
            runtime=1440,
            gpu=CONFIG.vlm.finetune.gpus,
            nodes=CONFIG.vlm.finetune.nodes,
        params:
            code=code("finetune_vlm.py"),
            settings=CONFIG.vlm.finetune.model_dump(mode="json", exclude={"gpus"}),
            stores=stores("pixelmaps"),
            # Beside the output: Snakemake deletes outputs before a retry.
            checkpoints=f"results/{CONFIG.run}/checkpoints/vlm",
            tensorboard=f"results/{CONFIG.run}/tensorboard/vlm",
        script:
            "../scripts/finetune_vlm.py"


rule classify_vlm:
    """Classify one part of the events with the fine-tuned model, under one condition."""
    input:
        base=f"{BASE}/manifest.json",
        adapter="<models>/vlm/adapter_model.safetensors",
        training="<models>/vlm/training.json",
        events="<results>/events.parquet",
        pixelmaps=pixel_map_stores(),
        prompts=CONFIG.vlm.prompts,
    output:
        "<results>/predictions/vlm/{condition}/{part}.parquet",
        "<results>/predictions/vlm/{condition}/{part}.json",
    log:
        "<results>/logs/classify_vlm/{condition}/{part}.log",
    benchmark:
        "<results>/benchmarks/classify_vlm/{condition}/{part}.tsv"
    conda:
        "../envs/gpu.yaml"
    threads: cores(CONFIG.vlm.classify.gpus)
    resources:
        mem_mb=scaled(8000 + 32000 * CONFIG.vlm.classify.gpus),
        runtime=scaled(480),
        gpu=CONFIG.vlm.classify.gpus,
    params:
        code=code("classify_vlm.py"),
        settings=CONFIG.vlm.classify.model_dump(mode="json", exclude={"gpus"}),
        quantization=CONFIG.vlm.finetune.quantization,
        bf16=CONFIG.vlm.finetune.bf16,
        stores=stores("pixelmaps"),
    script:
        "../scripts/classify_vlm.py"


rule explain_vlm:
    """Have the model say why, of chosen events of one part: their pictures as they are, occluded, and black."""
    input:
        list(explained_predictions("{part}").values()),
        base=f"{BASE}/manifest.json",
        adapter="<models>/vlm/adapter_model.safetensors",
        training="<models>/vlm/training.json",
        events="<results>/events.parquet",
        pixelmaps=pixel_map_stores(),
        prompts=CONFIG.vlm.prompts,
        vocabulary=CONFIG.vlm.vocabulary,
    output:
        "<results>/explanations/vlm/{part}.parquet",
    log:
        "<results>/logs/explain_vlm/{part}.log",
    benchmark:
        "<results>/benchmarks/explain_vlm/{part}.tsv"
    conda:
        "../envs/gpu.yaml"
    threads: cores(CONFIG.vlm.classify.gpus)
    resources:
        mem_mb=scaled(8000 + 32000 * CONFIG.vlm.classify.gpus),
        runtime=scaled(480),
        gpu=CONFIG.vlm.classify.gpus,
    params:
        code=code("explain_vlm.py"),
        settings=CONFIG.vlm.explain.model_dump(mode="json"),
        events=EXPLAINED,
        seed=CONFIG.dataset.seed,
        predictions=lambda wildcards: explained_predictions(wildcards.part),
        condition=CONFIG.conditions[0],
        merge_adapter=CONFIG.vlm.classify.merge_adapter,
        quantization=CONFIG.vlm.finetune.quantization,
        bf16=CONFIG.vlm.finetune.bf16,
        stores=stores("pixelmaps"),
    script:
        "../scripts/explain_vlm.py"
