# From input.source to voxel shards, or to ready pixel maps: the sources are rows of nuvlm.sources.table.
from nuvlm.sources.table import SOURCES

# A run of systematics takes its nominal events from the run that it varies.
CHOSEN_EVENTS = {}


def varied_shards(wildcards):
    """The shards of the other run that {shard} has test events of."""
    if not CHOSEN_EVENTS:
        return []
    return list(CONFIG.systematics.shards[split_variation(wildcards.shard)[1]])


def simulated_events(wildcards):
    """First event id and number of events of a shard; of a run of systematics, its table of chosen events says which."""
    return None if CHOSEN_EVENTS else shards.simulated_events(CONFIG, wildcards.shard)


if CONFIG.systematics is not None:
    CHOSEN_EVENTS = {"chosen": f"results/{CONFIG.systematics.run}/events.parquet"}

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
        if CHOSEN_EVENTS:
            CONVERTED = {"shard": temp("<results>/converted/{shard}.h5")}
            FILES = shards.list_shards(CONFIG.model_copy(update={"systematics": None}))

    def converted_file(wildcards):
        """The file of {shard}, which in a run of systematics is {variation}.{shard of the other run}."""
        if CHOSEN_EVENTS:
            return FILES[split_variation(wildcards.shard)[1]]
        return SHARDS[wildcards.shard]

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


if CHOSEN_EVENTS:

    def all_events(wildcards):
        """The shards that test events are taken from: those of the other run, or converted again."""
        variation, block = split_variation(wildcards.shard)
        files = CONFIG.systematics.shards[block]
        if variation not in WITH_OWN_VOXELS:
            return list(files.values())
        return [
            f"results/{CONFIG.run}/converted/{variation_shard(variation, shard)}.h5"
            for shard in files
        ]

    def missing_events(wildcards):
        """A conversion with a variation may leave out events, which are lost; nominal shards have all."""
        variation, _ = split_variation(wildcards.shard)
        return "skip" if variation in WITH_OWN_VOXELS else "error"

    rule select_events:
        """Take test events of another run out of their voxel shards."""
        input:
            **CHOSEN_EVENTS,
            voxels=all_events,
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
            shards=varied_shards,
            detector=CONFIG.detector.model_dump(mode="json"),
            on_bad_event=CONFIG.input.on_bad_event,
            on_missing_event=missing_events,
        script:
            "../scripts/select_events.py"
