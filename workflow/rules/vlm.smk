# What only the vision-language model has: its base model, made here or fetched.

SCRATCH_FILES = ["config.json", "manifest.json", "model.safetensors", "tokenizer.json"]
TEXTS = [CONFIG.vlm.prompts, CONFIG.vlm.vocabulary]
TEMPLATES = sorted(map(str, Path(own("resources/chat_templates")).glob("*.jinja")))
SHAPE = f"resources/shapes/{CONFIG.vlm.hub.folder_name}/config.json"
CARD = "resources/model_card.md.j2"
REHEARSAL = CONFIG.vlm.training("vlm")
# Ready pixel maps tell how many views there are; ancient, as more of them do not change that.
NUMBER_OF_VIEWS = (
    []
    if CONFIG.input.has_voxels
    else ancient(f"{EVENTS_FOLDER}/pixelmaps/{next(iter(SHARDS))}.zarr/zarr.json")
)


if CONFIG.models_from is None and CONFIG.vlm.base == "scratch":

    rule build_base_model:
        """Make a tiny Mllama from nothing and pre-train it on geometric shapes and their descriptions."""
        input:
            prompts=untimed(CONFIG.vlm.prompts),
            vocabulary=untimed(CONFIG.vlm.vocabulary),
            chat_template=untimed("resources/chat_templates/mllama.jinja"),
            pixelmaps=NUMBER_OF_VIEWS,
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
            code=code(
                "build_base_model.py",
                files=[*TEXTS, "resources/chat_templates/mllama.jinja"],
            ),
            settings=CONFIG.vlm.scratch.model_dump(mode="json"),
            tensorboard=f"results/{CONFIG.run}/tensorboard/base",
            checkpoint=f"results/{CONFIG.run}/checkpoints/base.pt",
        script:
            "../scripts/build_base_model.py"


if CONFIG.models_from is None and CONFIG.vlm.base == "smollm":

    rule build_grafted_base:
        """Graft a small English language model into the classes of Mllama; pre-train its new parts on drawn scenes."""
        input:
            prompts=untimed(CONFIG.vlm.prompts),
            chat_template=untimed("resources/chat_templates/chatml.jinja"),
            pixelmaps=NUMBER_OF_VIEWS,
        output:
            [f"{BASE}/{name}" for name in SCRATCH_FILES],
        log:
            "<results>/logs/build_grafted_base.log",
        benchmark:
            "<results>/benchmarks/build_grafted_base.tsv"
        # Long, and the fine-tuning waits for it: first, while events are simulated.
        priority: 1
        conda:
            "../envs/gpu.yaml"
        container:
            image("gpu")
        threads: 1
        resources:
            mem_mb=scaled(12000),
            runtime=scaled(480),
        params:
            code=code(
                "build_grafted_base.py",
                files=[CONFIG.vlm.prompts, "resources/chat_templates/chatml.jinja"],
            ),
            settings=CONFIG.vlm.smollm.model_dump(mode="json"),
            tensorboard=f"results/{CONFIG.run}/tensorboard/base",
            checkpoint=f"results/{CONFIG.run}/checkpoints/base.pt",
        script:
            "../scripts/build_grafted_base.py"


if CONFIG.models_from is None and CONFIG.vlm.base == "random":

    rule build_random_base:
        """Make a base model of a published shape with random weights, for trials of settings and machines."""
        input:
            shape=untimed(SHAPE),
            prompts=untimed(CONFIG.vlm.prompts),
            vocabulary=untimed(CONFIG.vlm.vocabulary),
            chat_templates=list(map(untimed, TEMPLATES)),
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
            code=code("build_random_base.py", files=[*TEXTS, *TEMPLATES, SHAPE]),
            settings=CONFIG.vlm.hub.model_dump(mode="json"),
            quantization=CONFIG.vlm.finetune.quantization,
            bf16=CONFIG.vlm.finetune.bf16,
        script:
            "../scripts/build_random_base.py"


if CONFIG.vlm.base == "hub":

    rule fetch_base_model:
        """Download the pinned revision of the base model, once; runs where Snakemake runs, as compute nodes are offline."""
        input:
            chat_templates=list(map(untimed, TEMPLATES)),
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
            code=code("fetch_base_model.py", files=TEMPLATES),
            settings=CONFIG.vlm.hub.model_dump(mode="json"),
        script:
            "../scripts/fetch_base_model.py"


rule export_vlm:
    """The fine-tuned model for use without NuVLM: merged for transformers, and the adapter, each with a model card."""
    input:
        "<models>/vlm/adapter_model.safetensors",
        base=f"{BASE}/manifest.json",
        training="<models>/vlm/training.json",
        scores="<results>/evaluation/scores.json",
        prompts=untimed(CONFIG.vlm.prompts),
        card=untimed(CARD),
    output:
        "<results>/export/model/config.json",
        "<results>/export/model/manifest.json",
        "<results>/export/adapter/manifest.json",
        card="<results>/export/model/README.md",
    log:
        "<results>/logs/export_vlm.log",
    benchmark:
        "<results>/benchmarks/export_vlm.tsv"
    conda:
        "../envs/gpu.yaml"
    container:
        image("gpu")
    threads: 1
    resources:
        # The unpacked weights, on the CPU.
        mem_mb=scaled(40000 if CONFIG.vlm.base != "scratch" else 4000),
        runtime=scaled(120),
    params:
        code=code("export_vlm.py", files=[CONFIG.vlm.prompts, CARD]),
        run=CONFIG.run,
        data=CONFIG.input.source,
        settings=CONFIG.vlm.finetune.model_dump(mode="json"),
    script:
        "../scripts/export_vlm.py"


rule rehearse:
    """Train, classify and explain a little with the configured settings and random weights: does it fit, how long?"""
    input:
        prompts=untimed(CONFIG.vlm.prompts),
        vocabulary=untimed(CONFIG.vlm.vocabulary),
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
        code=code("rehearse.py", files=TEXTS),
        resources=lambda wildcards: own("resources"),
        config=CONFIG.model_dump(mode="json"),
    script:
        "../scripts/rehearse.py"
