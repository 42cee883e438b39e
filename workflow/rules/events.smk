# The table that training and inference read.


if CONFIG.events_from is None:

    rule list_events:
        """List all events with class, split and part, and check that there are enough of each class."""
        input:
            shards=truth_files,
            manifests=pixel_map_files("manifest"),
            images=pixel_map_files("images"),
        output:
            events="<results>/events.parquet",
            # All that later jobs need to find the stores: with every store among their inputs, large DAGs would be slow.
            pixelmaps="<results>/pixelmaps.json",
        log:
            "<results>/logs/list_events.log",
        benchmark:
            "<results>/benchmarks/list_events.tsv"
        conda:
            "../envs/cpu.yaml"
        container:
            image("cpu")
        threads: 1
        resources:
            mem_mb=scaled(4000),
            runtime=scaled(60),
        params:
            code=code("list_events.py"),
            shards=list(SHARDS),
            detector=CONFIG.detector.model_dump(mode="json"),
            dataset=CONFIG.dataset.model_dump(mode="json"),
            train=CONFIG.models_from is None,
            on_bad_event=CONFIG.input.on_bad_event,
            made_with=made_with,
        script:
            "../scripts/list_events.py"

else:

    rule take_events:
        """Take the event table and the list of pixel maps of another run, with as many training events as are asked for."""
        input:
            events=f"{EVENTS_FOLDER}/events.parquet",
            pixelmaps=f"{EVENTS_FOLDER}/pixelmaps.json",
        output:
            events="<results>/events.parquet",
            pixelmaps="<results>/pixelmaps.json",
        log:
            "<results>/logs/take_events.log",
        benchmark:
            "<results>/benchmarks/take_events.tsv"
        conda:
            "../envs/cpu.yaml"
        container:
            image("cpu")
        threads: 1
        resources:
            mem_mb=scaled(4000),
            runtime=scaled(60),
        params:
            code=code("take_events.py"),
            dataset=CONFIG.dataset.model_dump(
                mode="json", include={"seed", "parts", "train_events"}
            ),
            images=CONFIG.image_settings,
            made_with=made_with,
        script:
            "../scripts/take_events.py"
