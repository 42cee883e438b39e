"""The whole configuration: config/config.yaml checked, and its JSON schema.

A stage with many settings keeps them beside its code (``detector``, ``cnn.settings``, ...); here
they are put together with the rest. Nothing heavy is imported: Snakemake reads this while it parses rules.
"""

import json
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import AfterValidator, Field, ValidationError, WithJsonSchema, model_validator

from nuvlm.base.errors import InputError, OnBadEvent
from nuvlm.base.settings import Settings
from nuvlm.detector.geometry import Detector, Diffusion, fiducial_box_mm
from nuvlm.detector.readout import Readout, Recombination
from nuvlm.models.bdt.settings import BdtSettings
from nuvlm.models.cnn.settings import CnnSettings
from nuvlm.models.conditions import CONTROLS, PATTERN, check_condition
from nuvlm.models.vlm.settings import VlmSettings

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Condition = Annotated[str, AfterValidator(check_condition), WithJsonSchema({"type": "string", "pattern": PATTERN})]


class SimulateSettings(Settings):
    """Events made here: final states, then GEANT4 (see docs/simulation.md)."""

    events: Count = 2400
    events_per_shard: Count = 300
    seed: Annotated[int, Field(ge=0)] = 7
    final_states: Literal["sample", "genie"] = "sample"
    """How neutrinos interact: sampled from tables, or read from GENIE's gRooTracker files (input.files)."""
    vertices: Literal["fiducial", "file"] = "fiducial"
    """Where: uniform in the fiducial volume, or where GENIE's file says."""
    margin_mm: Annotated[float, Field(ge=0)] = 500
    """No vertex is nearer than this to a wall, mm: the fiducial volume. Not published."""
    margin_downstream_mm: Annotated[float, Field(ge=0)] = 1500
    """The same for the downstream wall, mm."""


PIXEL_MAP_SOURCES = ("png", "cvn")
"""Sources of ready pixel maps: no voxels, no displays."""
SEGMENT_SOURCES = ("simulate", "edepsim", "larndsim")
"""Sources of energy deposits along steps, which voxels are made from."""


class InputSettings(Settings):
    source: Literal["simulate", "voxels", "edepsim", "larndsim", "png", "cvn"] = "simulate"
    """Where events come from: simulated here, voxel shards, edep-sim ROOT, larnd-sim / 2x2_sim HDF5, or pixel maps
    made elsewhere: folders of PNG files, DUNE CVN maps."""
    files: tuple[str, ...] = ()
    """Paths or globs; one file is one shard, named after it. With simulate.final_states `genie`, its files."""
    offset_mm: tuple[float, float, float] = (0, 0, 0)
    """Added to a file's coordinates, where its origin is not the detector's, mm."""
    on_bad_event: OnBadEvent = "error"
    """An event of a file that cannot be used (a value that is no number, nothing inside the detector): stop with its
    name, or leave it out, count it and say so in the log."""
    views: tuple[str, ...] | None = None
    """Of pixel maps made elsewhere: the views to use, in this order; all of them if null."""
    recombination: Recombination = Recombination()
    simulate: SimulateSettings = SimulateSettings()

    @property
    def has_voxels(self) -> bool:
        """Whether events come as deposits, so that there are event displays, or as ready pixel maps."""
        return self.source not in PIXEL_MAP_SOURCES

    @model_validator(mode="after")
    def _check(self) -> Self:
        from_genie = self.source == "simulate" and self.simulate.final_states == "genie"
        if self.source == "simulate" and self.files and not from_genie:
            raise ValueError("files are listed, but source is 'simulate': set source to what the files are")
        if not self.files and (self.source != "simulate" or from_genie):
            what = "simulate.final_states is 'genie'" if from_genie else f"source is '{self.source}'"
            raise ValueError(f"{what}, but files is empty: list the files to read")
        if self.simulate.vertices == "file" and not from_genie:
            raise ValueError("simulate.vertices is 'file', but there is none: set simulate.final_states to 'genie'")
        moves = self.source in ("edepsim", "larndsim") or self.simulate.vertices == "file"
        if any(self.offset_mm) and not moves:
            raise ValueError(f"offset_mm has no meaning for source '{self.source}': leave it at [0, 0, 0]")
        if self.views is not None and self.has_voxels:
            raise ValueError(f"views has no meaning for source '{self.source}', which has XZ and YZ: leave it out")
        if self.views is not None and (not self.views or len(set(self.views)) != len(self.views)):
            raise ValueError("views: name each once, and at least one, or leave it out")
        if self.recombination.model != "none" and self.source not in SEGMENT_SOURCES:
            raise ValueError(
                f"recombination needs the energy loss along each step, which source '{self.source}' does not have: "
                "leave recombination.model at 'none'"
            )
        return self


class DisplaySettings(Settings):
    """Event displays: the whole detector in two views, after diffusion."""

    pixel_mm: Annotated[float, Field(gt=0)] = 50
    """Side of a pixel, mm: 50 as published, 5 is the readout pitch (config/pixel5mm.yaml)."""
    diffusion: Diffusion = Diffusion()
    readout: Readout = Readout()


class PixelMapSettings(Settings):
    """Pixel maps: a square window of the event display around the interaction, as grayscale images."""

    size: Annotated[int, Field(ge=16, le=4096, multiple_of=2)] = 512
    """Side of the window, pixels."""
    centre: Literal["vertex", "centroid"] = "vertex"
    """Centre of the window; an event without a known vertex is centred on its energy-weighted centroid."""
    transfer: Literal["log", "linear"] = "log"
    """Energy to grayscale; see nuvlm.detector.grayscale.grayscale."""
    white_mev: Annotated[float, Field(gt=0)] = 200
    """Energy in a pixel at which it is white (255), MeV."""
    knee_mev: Annotated[float, Field(gt=0)] = 1
    """Energy around which `log` goes from linear to logarithmic, MeV."""


class DatasetSettings(Settings):
    validation: Fraction = 0.1
    """Share of the labelled events that choices are made on."""
    test: Fraction = 0.05
    """Share of the labelled events that the report is about."""
    seed: int = 7
    parts: Count = 1
    """Pieces that inference is cut in, one job each."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation + test = {self.validation + self.test:g} leaves nothing to train on")
        return self


class ReportSettings(Settings):
    browser: Annotated[int, Field(ge=0, le=2000)] = 600
    """Events that can be browsed; of more, half are the worst mistakes, the others drawn at random."""
    explain: Annotated[int, Field(ge=0)] = 600
    """Events that are explained: half of them the worst mistakes, the others drawn at random (docs/vlm.md)."""
    spectrum: str | None = None
    """CSV file of a beam's spectrum that cuts are weighted by (docs/report.md); null: the sample as it is."""


class Config(Settings):
    """Everything a run depends on."""

    run: Name = "demo"
    """Results go to results/{run}/."""
    models_from: Name | None = None
    """Classify with the models of this run instead of training: its name under results/."""
    input: InputSettings = InputSettings()
    detector: Detector = Detector()
    display: DisplaySettings = DisplaySettings()
    pixelmap: PixelMapSettings = PixelMapSettings()
    dataset: DatasetSettings = DatasetSettings()
    conditions: tuple[Condition, ...] = ("nominal", "half_resolution", "blank", "labels_permuted")
    """What the classifiers are shown: the images as they are, degraded ones, or what a control asks for
    (docs/report.md)."""
    cnn: CnnSettings = CnnSettings()
    bdt: BdtSettings = BdtSettings()
    vlm: VlmSettings = VlmSettings()
    report: ReportSettings = ReportSettings()

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.detector.display_shape(self.display.pixel_mm)
        if self.input.source == "simulate":
            fiducial_box_mm(self.detector, self.input.simulate.margin_mm, self.input.simulate.margin_downstream_mm)
        if self.models_from == self.run:
            raise ValueError(f"models_from is this run itself ('{self.run}'): leave it out, or name another run")
        if not self.conditions or len(set(self.conditions)) != len(self.conditions):
            raise ValueError("conditions: name each once, and at least one")
        if self.conditions[0] in CONTROLS:
            raise ValueError(
                f"conditions: {self.conditions[0]} is a control, and cannot be what others are compared with"
            )
        return self


RENAMED = {"tree": "bdt"}
"""Former key -> the present one, both with dots: the error for a former key names its successor."""


def parse_config(values: Mapping[str, Any]) -> Config:
    """Check `values` (the merged YAML) and return the configuration.

    Raises:
        InputError: one line a mistake, each naming the key and what is expected.
    """
    try:
        return Config.model_validate(_with_nulls(values))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"]) or "config"
            message = problem["msg"].removeprefix("Value error, ")
            if problem["type"] == "extra_forbidden":
                known = ", ".join(_known_keys(problem["loc"][:-1]))
                message = f"renamed: write {RENAMED[key]}" if key in RENAMED else f"unknown key; known here: {known}"
            else:
                message += f" (got {problem['input']!r})" if not isinstance(problem["input"], dict) else ""
            lines.append(f"  {key}: {message}")
        raise InputError("the configuration cannot be used; mend these keys:\n" + "\n".join(lines)) from None


def _with_nulls(value: Any) -> Any:
    """`value` with None for the word null: what Snakemake takes from its command line is text."""
    if isinstance(value, Mapping):
        return {key: _with_nulls(item) for key, item in value.items()}
    return None if value == "null" else value


def json_schema() -> str:
    """The JSON schema of the configuration, as kept in config/schema.json."""
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    model: Any = Config
    for part in location:
        model = get_args(model)[1] if get_origin(model) is Mapping else model.model_fields[str(part)].annotation
        if get_origin(model) is UnionType:  # what may be null
            model = get_args(model)[0]
    return list(model.model_fields)
