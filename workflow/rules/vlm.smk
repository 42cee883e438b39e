# What only the vision-language model has: its base model, made here or fetched.

SCRATCH_FILES = ["config.json", "manifest.json", "model.safetensors", "tokenizer.json"]
BASE = CONFIG.vlm.base_folder
REHEARSAL = CONFIG.vlm.training("vlm")


if CONFIG.models_from is None and CONFIG.vlm.base == "scratch":

    rule build_base_model:
        """Make a tiny Mllama from nothing and pre-train it on geometric shapes and their descriptions."""
        input:
            prompts=own(CONFIG.vlm.prompts),
            vocabulary=own(CONFIG.vlm.vocabulary),
            chat_template=own("resources/chat_templates/mllama.jinja"),
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
        container:
            image("gpu")
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


if CONFIG.models_from is None and CONFIG.vlm.base == "random":

    rule build_random_base:
        """Make a base model of a published shape with random weights, for trials of settings and machines."""
        input:
            shape=own(f"resources/shapes/{CONFIG.vlm.hub.folder_name}/config.json"),
            prompts=own(CONFIG.vlm.prompts),
            vocabulary=own(CONFIG.vlm.vocabulary),
            chat_templates=sorted(
                map(str, Path(own("resources/chat_templates")).glob("*.jinja"))
            ),
        output:
            f"{BASE}/manifest.json",
        log:
            "<results>/logs/build_random_base.log",
        benchmark:
            "<results>/benchmarks/build_random_base.tsv"
        conda:
            "../envs/gpu.yaml"
        container:
            image("gpu")
        threads: 1
        resources:
            # The largest matrix twice, and a file of weights.
            mem_mb=scaled(8000),
            runtime=scaled(60),
        params:
            code=code("build_random_base.py"),
            settings=CONFIG.vlm.hub.model_dump(mode="json"),
            quantization=CONFIG.vlm.finetune.quantization,
            bf16=CONFIG.vlm.finetune.bf16,
        script:
            "../scripts/build_random_base.py"


if CONFIG.vlm.base == "hub":

    rule fetch_base_model:
        """Download the pinned revision of the base model, once; runs where Snakemake runs, as compute nodes are offline."""
        input:
            chat_templates=sorted(
                map(str, Path(own("resources/chat_templates")).glob("*.jinja"))
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
        container:
            image("gpu")
        threads: 1
        resources:
            mem_mb=scaled(4000),
            runtime=scaled(240),
        params:
            code=code("fetch_base_model.py"),
            settings=CONFIG.vlm.hub.model_dump(mode="json"),
        script:
            "../scripts/fetch_base_model.py"


rule rehearse:
    """Train, classify and explain a little with the configured settings and random weights: does it fit, how long?"""
    input:
        prompts=own(CONFIG.vlm.prompts),
        vocabulary=own(CONFIG.vlm.vocabulary),
    output:
        "<results>/rehearsal/rehearsal.json",
    log:
        "<results>/logs/rehearse.log",
    benchmark:
        "<results>/benchmarks/rehearse.tsv"
    conda:
        "../envs/gpu.yaml"
    container:
        image("gpu")
    threads: REHEARSAL.threads
    resources:
        # A retry goes on where the last one ended.
        mem_mb=REHEARSAL.memory_mb,
        runtime=scaled(60),
        gpu=REHEARSAL.gpus,
        nodes=REHEARSAL.nodes,
    params:
        code=code("rehearse.py"),
        resources=lambda wildcards: own("resources"),
        config=CONFIG.model_dump(mode="json"),
    script:
        "../scripts/rehearse.py"
