# Where events come from: voxel shards, or ready pixel maps, made from whatever input.source names.

if CONFIG.input.source == "simulate":

    rule simulate_events:
        """Simulate neutrino events with GEANT4 and write their energy deposits as a voxel shard."""
        input:
            files=shards.genie_files(CONFIG),
        output:
            "<results>/voxels/{shard}.h5",
        log:
            "<results>/logs/simulate_events/{shard}.log",
        benchmark:
            "<results>/benchmarks/simulate_events/{shard}.tsv"
        conda:
            "../envs/cpu.yaml"
        threads: 1
        resources:
            mem_mb=scaled(2000),
            runtime=scaled(60),
        params:
            code=code("simulate_events.py"),
            detector=CONFIG.detector.model_dump(mode="json"),
            events=lambda wildcards: shards.simulated_events(CONFIG, wildcards.shard),
            settings=CONFIG.input.simulate.model_dump(
                include={"seed", "margin_mm", "margin_downstream_mm", "vertices"}
            ),
            offset_mm=list(CONFIG.input.offset_mm),
            on_bad_event=CONFIG.input.on_bad_event,
            recombination=CONFIG.input.recombination.model_dump(mode="json"),
        script:
            "../scripts/simulate_events.py"


if CONFIG.input.source == "edepsim":

    rule convert_edepsim:
        """Convert an edep-sim ROOT file to a voxel shard."""
        input:
            file=lambda wildcards: SHARDS[wildcards.shard],
        output:
            "<results>/voxels/{shard}.h5",
        log:
            "<results>/logs/convert_edepsim/{shard}.log",
        benchmark:
            "<results>/benchmarks/convert_edepsim/{shard}.tsv"
        conda:
            "../envs/cpu.yaml"
        threads: 1
        resources:
            mem_mb=scaled(2000),
            runtime=scaled(60),
        params:
            code=code("convert_edepsim.py"),
            detector=CONFIG.detector.model_dump(mode="json"),
            offset_mm=list(CONFIG.input.offset_mm),
            on_bad_event=CONFIG.input.on_bad_event,
            recombination=CONFIG.input.recombination.model_dump(mode="json"),
        script:
            "../scripts/convert_edepsim.py"


if CONFIG.input.source == "larndsim":

    rule convert_larndsim:
        """Convert a larnd-sim or 2x2_sim file to a voxel shard."""
        input:
            file=lambda wildcards: SHARDS[wildcards.shard],
        output:
            "<results>/voxels/{shard}.h5",
        log:
            "<results>/logs/convert_larndsim/{shard}.log",
        benchmark:
            "<results>/benchmarks/convert_larndsim/{shard}.tsv"
        conda:
            "../envs/cpu.yaml"
        threads: 1
        resources:
            mem_mb=scaled(2000),
            runtime=scaled(60),
        params:
            code=code("convert_larndsim.py"),
            detector=CONFIG.detector.model_dump(mode="json"),
            offset_mm=list(CONFIG.input.offset_mm),
            on_bad_event=CONFIG.input.on_bad_event,
            recombination=CONFIG.input.recombination.model_dump(mode="json"),
        script:
            "../scripts/convert_larndsim.py"


if CONFIG.input.source == "png":

    rule convert_png:
        """Take over the pixel maps of a folder of PNG files."""
        input:
            file=lambda wildcards: SHARDS[wildcards.shard],
        output:
            pixel_map_store(),
            truth="<results>/truth/{shard}.parquet",
        log:
            "<results>/logs/convert_png/{shard}.log",
        benchmark:
            "<results>/benchmarks/convert_png/{shard}.tsv"
        conda:
            "../envs/cpu.yaml"
        threads: 1
        resources:
            mem_mb=scaled(2000),
            runtime=scaled(60),
        params:
            code=code("convert_png.py"),
            views=CONFIG.input.views,
            on_bad_event=CONFIG.input.on_bad_event,
        script:
            "../scripts/convert_png.py"


if CONFIG.input.source == "cvn":

    rule convert_cvn:
        """Take over DUNE CVN pixel maps."""
        input:
            file=lambda wildcards: SHARDS[wildcards.shard],
        output:
            pixel_map_store(),
            truth="<results>/truth/{shard}.parquet",
        log:
            "<results>/logs/convert_cvn/{shard}.log",
        benchmark:
            "<results>/benchmarks/convert_cvn/{shard}.tsv"
        conda:
            "../envs/cpu.yaml"
        threads: 1
        resources:
            mem_mb=scaled(2000),
            runtime=scaled(60),
        params:
            code=code("convert_cvn.py"),
            views=CONFIG.input.views,
            on_bad_event=CONFIG.input.on_bad_event,
        script:
            "../scripts/convert_cvn.py"
