# From input.source to voxel shards, or to ready pixel maps: the sources are rows of nuvlm.sources.table.
from nuvlm.sources.table import SOURCES

if CONFIG.input.source == "simulate":

    rule simulate_events:
        """Simulate neutrino events with GEANT4 and write their energy deposits as a voxel shard."""
        input:
            files=PLANNED.genie_files,
        output:
            "<results>/voxels/{shard}.h5",
        log:
            "<results>/logs/simulate_events/{shard}.log",
        benchmark:
            "<results>/benchmarks/simulate_events/{shard}.tsv"
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
            events=lambda wildcards: shards.simulated_events(CONFIG, wildcards.shard),
            settings=CONFIG.input.simulate.model_dump(
                include={"seed", "margin_mm", "margin_downstream_mm", "vertices"}
            ),
            offset_mm=list(CONFIG.input.offset_mm),
            on_bad_event=CONFIG.input.on_bad_event,
            recombination=CONFIG.input.recombination.model_dump(mode="json"),
            cosmics=CONFIG.cosmics,
        script:
            "../scripts/simulate_events.py"


ROW = SOURCES[CONFIG.input.source]

if ROW.reader is not None:
    SETTINGS = CONFIG.input.model_dump(
        mode="json", include={"on_bad_event", *ROW.settings}
    )
    if ROW.kind == "maps":
        CONVERTED = {
            "store": pixel_map_store(),
            "truth": "<results>/truth/{shard}.parquet",
        }
    else:
        CONVERTED = {"shard": "<results>/voxels/{shard}.h5"}
        SETTINGS["detector"] = CONFIG.detector.model_dump(mode="json")

    rule convert:
        """Convert an input file to a voxel shard, or to pixel maps and their truth."""
        input:
            file=lambda wildcards: SHARDS[wildcards.shard],
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
            settings=SETTINGS,
        script:
            "../scripts/convert.py"
