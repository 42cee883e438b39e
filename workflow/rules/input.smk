# From input.source to voxel shards, or to ready pixel maps: the sources are rows of nuvlm.sources.table.
if CONFIG.input.source == "simulate":

    rule simulate_events:
        """Simulate neutrino events with GEANT4 and write their energy deposits as a voxel shard."""
        input:
            **CHOSEN_EVENTS,
            files=PLANNED.genie_files,
        output:
            "<results>/voxels/{shard}.h5",
        log:
            "<results>/logs/simulate_events/{shard}.log",
        benchmark:
            "<results>/benchmarks/simulate_events/{shard}.tsv"
        wildcard_constraints:
            shard=rf"(?!{NOMINAL}\.).+" if CHOSEN_EVENTS else ".+",
        conda:
            "../envs/cpu.yaml"
        container:
            image("cpu")
        threads: 1
        resources:
            mem_mb=scaled(2000),
            runtime=scaled(60),
        params:
            code=code("simulate_events.py"),
            detector=CONFIG.detector.model_dump(mode="json"),
            events=simulated_events,
            shards=varied_shards,
            settings=varied(
                lambda config: config.input.simulate.model_dump(
                    include={"seed", "margin_mm", "margin_downstream_mm", "vertices"}
                )
            ),
            offset_mm=list(CONFIG.input.offset_mm),
            on_bad_event=CONFIG.input.on_bad_event,
            recombination=varied(
                lambda config: config.input.recombination.model_dump(mode="json")
            ),
            with_counterfactuals=CONFIG.input.simulate.counterfactuals,
            cosmics=varied(lambda config: config.cosmics),
        script:
            "../scripts/simulate_events.py"


if ROW.reader is not None:
    if ROW.kind == "maps":
        CONVERTED = {
            "store": pixel_map_store(),
            "truth": "<results>/truth/{shard}.parquet",
        }
    else:
        CONVERTED = {"shard": "<results>/voxels/{shard}.h5"}
        if CHOSEN_EVENTS:
            CONVERTED = {"shard": temp("<results>/converted/{shard}.h5")}

    rule convert:
        """Convert an input file to a voxel shard, or to pixel maps and their truth."""
        input:
            file=converted_file,
        output:
            **CONVERTED,
        log:
            "<results>/logs/convert/{shard}.log",
        benchmark:
            "<results>/benchmarks/convert/{shard}.tsv"
        conda:
            "../envs/cpu.yaml"
        container:
            image("cpu")
        threads: 1
        resources:
            mem_mb=scaled(2000),
            runtime=scaled(60),
        params:
            code=code("convert.py", ROW.reader, ROW.writer),
            reader=ROW.reader,
            writer=ROW.writer,
            settings=varied(conversion_settings),
        script:
            "../scripts/convert.py"
