# How the events of a shard are made; in a run of systematics, also with the variation in its name.
from nuvlm.sources.table import SOURCES

ROW = SOURCES[CONFIG.input.source]
# A run of systematics takes its nominal events from the run that it varies.
CHOSEN_EVENTS, FILES = {}, {}
if CONFIG.systematics is not None:
    CHOSEN_EVENTS = {"chosen": f"results/{CONFIG.systematics.run}/events.parquet"}
    FILES = shards.list_shards(CONFIG.model_copy(update={"systematics": None}))


def voxel_file(shard):
    """The voxel shard of a shard: made here, or the user's own where it lies."""
    if CONFIG.systematics is not None:
        variation, name = split_variation(shard)
        made = variation if variation in WITH_OWN_VOXELS else NOMINAL
        return f"results/{CONFIG.run}/voxels/{variation_shard(made, name)}.h5"
    if CONFIG.input.source == "voxels":
        return SHARDS[shard]
    return f"results/{CONFIG.run}/voxels/{shard}.h5"


def config_of(wildcards):
    """The configuration that a shard is made with: that of its variation in a run of systematics."""
    if CONFIG.systematics is None:
        return CONFIG
    return VARIATIONS[split_variation(wildcards.shard)[0]]


def varied(settings):
    """Settings of a rule that makes events, as its parameter; `settings` takes them from a configuration."""
    if CONFIG.systematics is None:
        return settings(CONFIG)
    return lambda wildcards: settings(config_of(wildcards))


def varied_shards(wildcards):
    """The shards of the other run that {shard} has test events of."""
    if not CHOSEN_EVENTS:
        return []
    return list(CONFIG.systematics.shards[split_variation(wildcards.shard)[1]])


def simulated_events(wildcards):
    """First event id and number of events of a shard; of a run of systematics, its table of chosen events says which."""
    return None if CHOSEN_EVENTS else shards.simulated_events(CONFIG, wildcards.shard)


def displacement_map(wildcards):
    """The map of space charge, where there is one."""
    space_charge = config_of(wildcards).display.readout.space_charge
    return space_charge.map if space_charge.has_effects else []


def conversion_settings(config):
    """What the writer of a converted file is made with."""
    settings = config.input.model_dump(
        mode="json", include={"on_bad_event", *ROW.settings}
    )
    if ROW.kind == "maps":
        return settings
    return settings | {"detector": config.detector.model_dump(mode="json")}


def converted_file(wildcards):
    """The file of {shard}, which in a run of systematics is {variation}.{shard of the other run}."""
    if CHOSEN_EVENTS:
        return FILES[split_variation(wildcards.shard)[1]]
    return SHARDS[wildcards.shard]


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
