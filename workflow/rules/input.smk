# Where events come from: voxel shards, made from whatever input.source names.

if CONFIG.input.source == "simulate":

    rule simulate_events:
        """Simulate neutrino events with GEANT4 and write their energy deposits as a voxel shard."""
        input:
            code=code("simulate_events.py"),
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
            detector=CONFIG.detector.model_dump(mode="json"),
            events=lambda wildcards: layout.simulated_events(CONFIG, wildcards.shard),
            settings=CONFIG.input.simulate.model_dump(
                include={"seed", "margin_mm", "margin_downstream_mm"}
            ),
        script:
            "../scripts/simulate_events.py"


if CONFIG.input.source == "larndsim":

    rule convert_larndsim:
        """Convert a larnd-sim or 2x2_sim file to a voxel shard."""
        input:
            file=lambda wildcards: SHARDS[wildcards.shard],
            code=code("convert_larndsim.py"),
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
            mem_mb=scaled(4000),
            runtime=scaled(30),
        params:
            detector=CONFIG.detector.model_dump(mode="json"),
            offset_mm=list(CONFIG.input.offset_mm),
        script:
            "../scripts/convert_larndsim.py"
