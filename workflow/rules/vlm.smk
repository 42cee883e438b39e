# What only the vision-language model has: its base model, made here or fetched.

SCRATCH_FILES = ["config.json", "manifest.json", "model.safetensors", "tokenizer.json"]
BASE = CONFIG.vlm.base_folder


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
        threads: 1
        resources:
            mem_mb=scaled(4000),
            runtime=scaled(240),
        params:
            code=code("fetch_base_model.py"),
            settings=CONFIG.vlm.hub.model_dump(mode="json"),
        script:
            "../scripts/fetch_base_model.py"
