# From input.source to voxel shards, or to ready pixel maps: the sources are rows of nuvlm.sources.table.
from nuvlm.sources.table import SOURCES

# In a run of systematics, of the test events of another run, the nominal ones are taken from there.
AGAIN = {}
if CONFIG.systematics is not None:
    AGAIN = {"chosen": f"results/{CONFIG.systematics.run}/events.parquet"}

if CONFIG.input.source == "simulate":

    rule simulate_events:
        """Simulate neutrino events with GEANT4 and write their energy deposits as a voxel shard."""
        input:
            files=PLANNED.genie_files,
            **AGAIN,
        output:
            "<results>/voxels/{shard}.h5",
        log:
            "<results>/logs/simulate_events/{shard}.log",
        benchmark:
            "<results>/benchmarks/simulate_events/{shard}.tsv"
        wildcard_constraints:
            shard=rf"(?!{NOMINAL}\.).+" if AGAIN else ".+",
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
        script:
            "../scripts/simulate_events.py"


ROW = SOURCES[CONFIG.input.source]

if ROW.reader is not None:

    def conversion_settings(config):
        """What the writer of a converted file is made with."""
        settings = config.input.model_dump(
            mode="json", include={"on_bad_event", *ROW.settings}
        )
        if ROW.kind == "maps":
            return settings
        return settings | {"detector": config.detector.model_dump(mode="json")}

    if ROW.kind == "maps":
        CONVERTED = {
            "store": pixel_map_store(),
            "truth": "<results>/truth/{shard}.parquet",
        }
    else:
        CONVERTED = {"shard": "<results>/voxels/{shard}.h5"}
        if AGAIN:
            CONVERTED = {"shard": temp("<results>/converted/{shard}.h5")}

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
            settings=varied(conversion_settings),
        script:
            "../scripts/convert.py"


if AGAIN:

    def all_events(wildcards):
        """The shard that test events are taken from: that of the run, or one that is converted again."""
        if split_variation(wildcards.shard)[0] in REMADE:
            return "<results>/converted/{shard}.h5"
        return SHARDS[wildcards.shard]

    rule select_events:
        """Take the test events of another run out of a voxel shard."""
        input:
            shard=all_events,
            **AGAIN,
        output:
            "<results>/voxels/{shard}.h5",
        log:
            "<results>/logs/select_events/{shard}.log",
        benchmark:
            "<results>/benchmarks/select_events/{shard}.tsv"
        wildcard_constraints:
            # Others are simulated.
            shard=rf"{NOMINAL}\..+" if CONFIG.input.source == "simulate" else ".+",
        conda:
            "../envs/cpu.yaml"
        container:
            image("cpu")
        threads: 1
        resources:
            mem_mb=scaled(2000),
            runtime=scaled(30),
        params:
            code=code("select_events.py"),
            detector=CONFIG.detector.model_dump(mode="json"),
            on_bad_event=CONFIG.input.on_bad_event,
        script:
            "../scripts/select_events.py"
