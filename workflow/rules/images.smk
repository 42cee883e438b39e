# From voxels to pixel maps, where these are not ready.

if CONFIG.input.has_voxels:

    rule smear_and_downsample:
        """Smear a shard's voxels by diffusion and sum them into event displays, in one exact pass."""
        input:
            shard=lambda wildcards: voxel_file(wildcards.shard),
            space_charge=displacement_map,
        output:
            display_store(),
        log:
            "<results>/logs/smear_and_downsample/{shard}.log",
        benchmark:
            "<results>/benchmarks/smear_and_downsample/{shard}.tsv"
        conda:
            "../envs/cpu.yaml"
        container:
            image("cpu")
        threads: 1
        resources:
            mem_mb=scaled(2000),
            runtime=scaled(30),
        params:
            code=code("smear_and_downsample.py"),
            detector=CONFIG.detector.model_dump(mode="json"),
            display=varied(lambda config: config.display.model_dump(mode="json")),
            on_bad_event=CONFIG.input.on_bad_event,
            # Shards of other programs have not been checked by a conversion.
            foreign=CONFIG.input.source == "voxels" and CONFIG.systematics is None,
        script:
            "../scripts/smear_and_downsample.py"

    rule crop_displays:
        """Cut each event display to a window around the interaction and turn energy into grey values."""
        input:
            # Not every file of the store, which would double the time to plan: the reader checks the others.
            manifest="<results>/displays/{shard}.zarr/manifest.json",
            views=expand(
                "<results>/displays/{shard}.zarr/{view}/c/0/0/0",
                view=["xz", "yz"],
                allow_missing=True,
            ),
        output:
            pixel_map_store(),
        log:
            "<results>/logs/crop_displays/{shard}.log",
        benchmark:
            "<results>/benchmarks/crop_displays/{shard}.tsv"
        conda:
            "../envs/cpu.yaml"
        container:
            image("cpu")
        threads: 1
        resources:
            mem_mb=scaled(2000),
            runtime=scaled(30),
        params:
            code=code("crop_displays.py"),
            pixelmap=CONFIG.pixelmap.of_maps,
            on_bad_event=CONFIG.input.on_bad_event,
        script:
            "../scripts/crop_displays.py"
