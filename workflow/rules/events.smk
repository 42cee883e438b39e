# The table that training and inference read.


rule list_events:
    """List all events with class, split and part, and check that there are enough of each class."""
    input:
        shards=(
            voxel_shards
            if CONFIG.input.has_voxels
            else expand("<results>/truth/{shard}.parquet", shard=SHARDS)
        ),
        pixelmaps=pixel_map_stores(),
    output:
        "<results>/events.parquet",
    log:
        "<results>/logs/list_events.log",
    benchmark:
        "<results>/benchmarks/list_events.tsv"
    conda:
        "../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(60),
    params:
        code=code("list_events.py"),
        shards=list(SHARDS),
        stores=stores("pixelmaps"),
        detector=CONFIG.detector.model_dump(mode="json"),
        dataset=CONFIG.dataset.model_dump(mode="json"),
        train=CONFIG.models_from is None,
        on_bad_event=CONFIG.input.on_bad_event,
    script:
        "../scripts/list_events.py"
