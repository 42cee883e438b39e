"""The whole configuration: config/config.yaml checked, and its JSON schema.

A stage with many settings keeps them beside its code (``detector``, ``cnn.settings``, ...); here
they are put together with the rest. Nothing heavy is imported: Snakemake reads this while it parses rules.
"""

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from datetime import date
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args, get_origin

import numpy as np
import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)

from nuvlm.base.errors import InputError, OnBadEvent
from nuvlm.base.settings import FilePath, Settings, flatten
from nuvlm.detector.geometry import LARGEST_PICTURE, Centre, Detector, Diffusion, drift_distance_mm, fiducial_box_mm
from nuvlm.detector.readout import Readout, Recombination
from nuvlm.evaluation.nuisances import NOMINAL, Systematics
from nuvlm.models.conditions import CONTROLS, KINDS, PATTERN, check_condition, degradation
from nuvlm.models.jobs import FamilySettings
from nuvlm.models.table import FAMILIES, family_of
from nuvlm.models.vlm.settings import OWN_BASES
from nuvlm.sources.table import SOURCES
from nuvlm.sources.wire_pixels import WirePixels

if TYPE_CHECKING:
    from nuvlm.models.bdt.settings import BdtSettings
    from nuvlm.models.cnn.settings import CnnSettings
    from nuvlm.models.vit.settings import VitSettings
    from nuvlm.models.vlm.settings import VlmSettings
    from nuvlm.models.vlm_head.settings import VlmHeadSettings


def _text(value: Any) -> Any:
    """A name that YAML and Snakemake's command line read as a number or a date, such as 20240115.

    Raises:
        ValueError: how it was written cannot be known.
    """
    if isinstance(value, bool | float):
        raise ValueError(f"read as {value}, not as a name: put it in quotes, on the command line as '\"1.10\"'")
    return str(value) if isinstance(value, int | date) else value


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100), BeforeValidator(_text)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Condition = Annotated[str, AfterValidator(check_condition), WithJsonSchema({"type": "string", "pattern": PATTERN})]


def _check_source(name: str) -> str:
    if name not in SOURCES:
        raise ValueError(f"unknown source; known: {', '.join(map(repr, SOURCES))}")
    return name


SourceName = Annotated[
    str,
    AfterValidator(_check_source),
    WithJsonSchema({"type": "string", "enum": list(SOURCES)}),
    Field(
        description="Source of the events, and its files.\n"
        + "\n".join(f"{name}: {source.files}." for name, source in SOURCES.items())
    ),
]


class CosmicsSettings(Settings):
    """Muons of cosmic rays in the pictures of simulated events (docs/simulation.md#cosmic-rays)."""

    rate_hz_m2: Annotated[float, Field(ge=0, le=10_000)] = 0
    """Muons a second through a horizontal square metre: 125 at sea level; 0: none."""


class SimulateSettings(Settings):
    """Simulated events: final states, transported by GEANT4 (docs/simulation.md)."""

    events: Count = 2400
    events_per_shard: Count = 300
    seed: Annotated[int, Field(ge=0)] = 7
    final_states: Literal["sample", "genie"] = "sample"
    """Final states: sampled, or read from files of GENIE, NEUT or NuWro (input.files; docs/simulation.md)."""
    vertices: Literal["fiducial", "file"] = "fiducial"
    """Vertices: uniform in the fiducial volume, or those of the GENIE files."""
    margin_mm: Annotated[float, Field(ge=0)] = 500
    """Distance of the fiducial volume from the walls, mm. Not published."""
    margin_downstream_mm: Annotated[float, Field(ge=0)] = 1500
    """Distance of the fiducial volume from the downstream wall, mm."""
    counterfactuals: bool = False
    """Simulate each event also without its electron, muon or photons, and with its shower after a gap or at the vertex
    (docs/simulation.md). For runs that classify with the models of another (models_from)."""
    cosmics: CosmicsSettings = CosmicsSettings()


class InputSettings(Settings):
    source: SourceName = "simulate"
    files: tuple[FilePath, ...] = ()
    """Paths or glob patterns; one file is one shard, named after it. Empty for sampled final states."""
    offset_mm: tuple[float, float, float] = (0, 0, 0)
    """Added to the coordinates of a file whose origin is not the detector's, mm."""
    axes: Literal["xyz", "xzy", "yxz", "yzx", "zxy", "zyx"] | None = None
    """What the file calls x, y and z of the detector: `zyx` where x and z are exchanged; null: as they are called,
    unless the evidence is against it."""
    outside_limit: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Largest part of a file's energy that may lie outside the detector."""
    on_bad_event: OnBadEvent = "error"
    """An event that cannot be used (a value that is not a number, nothing inside the detector): `error` stops with its
    name, `skip` leaves it out and counts it in the log."""
    product: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """LArCV and SPINE files only: the data product to read, such as sparse3d_reco; the usual one if null."""
    mev_per_unit: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1
    """LArCV, SPINE and PILArNet files only: energy of one unit of the product's values, MeV."""
    views: tuple[str, ...] | None = None
    """Ready pixel maps only: the views to use, in this order; all if null."""
    wires: WirePixels = WirePixels()
    """Sources with hits on wires only: the pixels of the maps that are made of them."""
    recombination: Recombination = Recombination()
    simulate: SimulateSettings = SimulateSettings()

    @property
    def has_voxels(self) -> bool:
        """Whether the source has energy deposits, hence voxels and event displays, or ready pixel maps."""
        return SOURCES[self.source].kind != "maps"

    @model_validator(mode="after")
    def _check(self) -> Self:
        from_genie = self.source == "simulate" and self.simulate.final_states == "genie"
        if self.source == "simulate" and self.files and not from_genie:
            raise ValueError("files are listed, but source is 'simulate': set source to the format of the files")
        if not self.files and (self.source != "simulate" or from_genie):
            what = "simulate.final_states is 'genie'" if from_genie else f"source is '{self.source}'"
            raise ValueError(f"{what}, but files is empty: list the files to read ({SOURCES[self.source].files})")
        if self.simulate.vertices == "file" and not from_genie:
            raise ValueError("simulate.vertices is 'file', but there is none: set simulate.final_states to 'genie'")
        if self.simulate.counterfactuals and self.source != "simulate":
            raise ValueError(
                f"simulate.counterfactuals has no effect for source '{self.source}': a file has one version of each "
                "event. Set source to 'simulate', or counterfactuals to false"
            )
        if self.simulate.cosmics.rate_hz_m2 and self.source != "simulate":
            raise ValueError(
                f"simulate.cosmics has no effect for source '{self.source}': leave its rate_hz_m2 at 0. Muons are "
                "added to simulated events only"
            )
        settings = SOURCES[self.source].settings
        has_coordinates = self.source != "simulate" or self.simulate.vertices == "file"
        if any(self.offset_mm) and not ("offset_mm" in settings and has_coordinates):
            raise ValueError(f"offset_mm has no effect for source '{self.source}': leave it at [0, 0, 0]")
        for name in ("axes", "outside_limit", "product", "mev_per_unit"):
            if getattr(self, name) != type(self).model_fields[name].default and name not in settings:
                raise ValueError(f"{name} has no effect for source '{self.source}': leave it out")
        if self.views is not None and "views" not in settings:
            raise ValueError(f"views has no effect for source '{self.source}', which has XZ and YZ: leave it out")
        if self.views is not None and (not self.views or len(set(self.views)) != len(self.views)):
            raise ValueError("views: name each once, and at least one, or leave it out")
        if self.wires != WirePixels() and "wires" not in settings:
            raise ValueError(
                f"wires has no effect for source '{self.source}', which has no hits on wires: leave it out"
            )
        if self.recombination.model != "none" and "recombination" not in settings:
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

    size: Annotated[int, Field(ge=16, le=LARGEST_PICTURE, multiple_of=2)] = 512
    """Side of the window, pixels."""
    centre: Centre = "charge"
    """Centre of the window: `charge`, the interaction point found from the charge; `vertex`, the true vertex, as
    published; `centroid`, the energy-weighted centroid. Events for which it fails are centred by `charge`."""
    transfer: Literal["log", "linear"] = "log"
    """Energy to grayscale; see nuvlm.detector.grayscale.grayscale."""
    white_mev: Annotated[float, Field(gt=0)] = 200
    """Energy in a pixel at which it is white (255), MeV."""
    knee_mev: Annotated[float, Field(gt=0)] = 1
    """Energy around which `log` goes from linear to logarithmic, MeV."""
    zoom: Annotated[int, Field(ge=1)] = 1
    """Integer upscaling of pixel maps before the base model's image processor (ViT, VLM head, VLM). It needs a base
    model that does not scale every picture to one size."""

    @property
    def of_maps(self) -> dict[str, Any]:
        """What the maps are made with, as plain values."""
        return self.model_dump(mode="json", exclude={"zoom"})

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.size * self.zoom > LARGEST_PICTURE:
            raise ValueError(
                f"size ({self.size}) x zoom ({self.zoom}) gives pictures of {self.size * self.zoom} pixels a side; "
                f"{LARGEST_PICTURE} is the maximum"
            )
        return self


class DatasetSettings(Settings):
    validation: Fraction = 0.1
    """Share of the labelled events that choices are made on."""
    test: Fraction = 0.05
    """Share of the labelled events that the report is about."""
    seed: int = 7
    parts: Count = 1
    """Pieces that inference is cut in, one job each."""
    train_events: Count | None = None
    """Use this many training events, the same fraction of the validation events (at least 500), and all test events;
    null: all. A smaller number chooses among the events of a larger one."""

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
    spectrum: FilePath | None = None
    """CSV file of a beam's spectrum that cuts are weighted by (docs/report.md); null: the sample as it is."""
    coverage: Annotated[float, Field(ge=0.01, lt=1)] = 0.9
    """Fraction of the events of each class whose prediction set is promised to hold it (docs/report.md)."""


if TYPE_CHECKING:
    # The sections that code names.
    class _Families(Settings):
        cnn: CnnSettings
        bdt: BdtSettings
        vit: VitSettings
        vlm_head: VlmHeadSettings
        vlm: VlmSettings
else:
    _Families = create_model(
        "_Families", __base__=Settings, **{name: (row.settings, row.settings()) for name, row in FAMILIES.items()}
    )


class Config(_Families):
    """Everything a run depends on: these keys, and a section for each family of models."""

    run: Name = "demo"
    """Results go to results/{run}/."""
    models_from: Name | None = None
    """Classify with the models of this run instead of training: its name under results/."""
    events_from: Name | None = None
    """Train and classify with the events and pixel maps of this run instead of making them: its name under results/."""
    input: InputSettings = InputSettings()
    detector: Detector = Detector()
    display: DisplaySettings = DisplaySettings()
    pixelmap: PixelMapSettings = PixelMapSettings()
    dataset: DatasetSettings = DatasetSettings()
    conditions: tuple[Condition, ...] = ("nominal", "half_resolution", "blank", "labels_permuted")
    """What the classifiers are shown: the images as they are, degraded ones, or what a control asks for
    (docs/report.md)."""
    conditions_in_one_job: bool = True
    """Whether a job classifies its part under all conditions, with one start of the program and the model, or under
    one: then a condition that is added classifies no other again, and jobs are shorter."""
    report: ReportSettings = ReportSettings()
    systematics: Systematics | None = None
    """Nuisances of a run that classifies the test events of `models_from` again with each (docs/systematics.md)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.detector.display_shape(self.display.pixel_mm)
        if self.input.source == "simulate":
            fiducial_box_mm(self.detector, self.input.simulate.margin_mm, self.input.simulate.margin_downstream_mm)
        kind = SOURCES[self.input.source].kind
        if kind != "steps" and self.display.readout.has_effects:
            why = "whose charge was read out already" if kind == "drifted" else "which has ready pixel maps"
            raise ValueError(
                f"display.readout cannot act on source '{self.input.source}', {why}: leave display.readout at its "
                "defaults"
            )
        if self.input.simulate.counterfactuals and self.models_from is None:
            raise ValueError(
                "input.simulate.counterfactuals makes events for testing only: set models_from to a finished run, or "
                "counterfactuals to false"
            )
        if self.input.simulate.counterfactuals:
            self._check_pairs()
        if self.models_from == self.run:
            raise ValueError(f"models_from is this run itself ('{self.run}'): leave it out, or name another run")
        self._check_events()
        if not self.families:
            raise ValueError("every family of models is disabled: enable one")
        if (
            self.pixelmap.zoom > 1
            and self.vlm.base in OWN_BASES
            and any(FAMILIES[name].on_base for name in self.families)
        ):
            raise ValueError(
                f"pixelmap.zoom has no effect: the base model scales every picture to vlm.{self.vlm.base}.image_size. "
                "Set that, or zoom to 1"
            )
        if self.vlm_head.prompts is None:
            # The settings are frozen, and a default that depends on another section is known only here.
            object.__setattr__(self, "vlm_head", self.vlm_head.model_copy(update={"prompts": self.vlm.prompts}))
        if not self.conditions or len(set(self.conditions)) != len(self.conditions):
            raise ValueError("conditions: name each once, and at least one")
        if self.conditions[0] in CONTROLS:
            raise ValueError(
                f"conditions: {self.conditions[0]} is a control, and cannot be what others are compared with"
            )
        self._check_systematics()
        if self.systematics is not None:
            refuse_drawn_condition(self.conditions[0], "an event under two variations (systematics)")
        return self

    def _check_pairs(self) -> None:
        """An event and the same changed must differ in nothing but the change."""
        if self.display.readout.noise_mev:
            raise ValueError(
                "input.simulate.counterfactuals cannot be compared with noise_mev in display.readout: an event and the "
                "same changed have other noise everywhere. Run with --config 'display={readout: {noise_mev: 0}}'"
            )
        refuse_drawn_condition(self.conditions[0], "an event and the same changed (input.simulate.counterfactuals)")

    def _check_events(self) -> None:
        train_events, simulate = self.dataset.train_events, self.input.simulate
        if self.events_from == self.run:
            raise ValueError(f"events_from is this run itself ('{self.run}'): leave it out, or name another run")
        if self.models_from is not None:
            # With models of another run all events are for testing.
            for name, value in {"events_from": self.events_from, "dataset.train_events": train_events}.items():
                if value is not None:
                    raise ValueError(
                        f"{name} chooses events to train on, but models_from trains nothing: leave one out"
                    )
        if train_events and self.input.source == "simulate":
            # The split is a hash, so their number is binomial; the exact one is checked when it is known.
            share = 1 - self.dataset.validation - self.dataset.test
            expected = simulate.events * share
            if train_events > expected + 6 * (expected * (1 - share)) ** 0.5:
                raise ValueError(
                    f"dataset.train_events asks for {train_events:,} training events, but of input.simulate.events, "
                    f"{simulate.events:,}, about {expected:,.0f} are for training: lower the one, or raise the other"
                )

    def _check_systematics(self) -> None:
        if self.systematics is None:
            return
        if self.models_from is None:
            raise ValueError("systematics needs the models of a finished run: start it with make systematics RUN=...")
        # What variations come to -> the first that does.
        seen = {json.dumps(self._acting()): NOMINAL}
        for nuisance, variation, settings in self.systematics.settings():
            where = f"systematics: nuisance {nuisance.name}, {variation.removeprefix(nuisance.name)[1:]}"
            keys = [key for key, _ in flatten(settings)]
            for key in keys:
                if not f"{key}.".startswith(VARIED) or key.startswith(SAME):
                    raise ValueError(
                        f"{where}: {key} cannot be varied, as the same events must be classified by the same models. "
                        f"What can: {', '.join(name.rstrip('.') for name in VARIED)}; not {', '.join(SAME)}"
                    )
                if key.startswith("input.simulate.") and self.input.source != "simulate":
                    raise ValueError(
                        f"{where}: {key} acts on simulated events, the run's source is '{self.input.source}': remove "
                        "the nuisance"
                    )
            try:
                varied = self.variation(variation)
            except InputError as error:
                raise ValueError(f"{where}: {error}") from error
            same = seen.setdefault(json.dumps(varied._acting()), variation)
            if same == NOMINAL:
                raise ValueError(
                    f"{where}: {', '.join(keys)} is as in the run, or has no effect with its other settings, "
                    "so the standard deviation is 0: set another value, or remove the nuisance"
                )
            if same != variation:
                raise ValueError(f"{where}: has the same effect as {same}: mend one, or remove the nuisance")

    def _plain(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"systematics"})

    def _acting(self) -> dict[str, Any]:
        """All settings, without those that have no effect on events beside the others."""
        values, readout, diffusion = self._plain(), self.display.readout, self.display.diffusion
        made, shown = values["input"], values["display"]
        if self.input.recombination.model == "none":
            del made["recombination"]["field_kv_cm"]
        if readout.electron_lifetime_us is None and self.cosmics is None:
            del shown["readout"]["drift_velocity_mm_us"]
        if not (readout.noise_mev or readout.dead_channels):
            del shown["readout"]["seed"]
        if not readout.space_charge.has_effects:
            del shown["readout"]["space_charge"]
        if not (diffusion.transverse_mm or diffusion.longitudinal_mm):
            del shown["diffusion"]["scaling"]
        if drift_distance_mm(self.detector, np.array(self.detector.box_mm[self.detector.drift]))[1].all():
            # There is no charge behind an outer anode.
            del shown["diffusion"]["behind_anode"]
        if SOURCES[self.input.source].kind == "drifted":
            del shown["diffusion"]
        return values

    @property
    def variations(self) -> tuple[str, ...]:
        """The variations of a run of systematics that have events of their own; the first is the nominal one."""
        assert self.systematics is not None
        return (NOMINAL, *(variation for _, variation, _ in self.systematics.settings()))

    def variation(self, name: str) -> "Config":
        """The configuration with which the events of a variation are made.

        Raises:
            InputError: it is impossible.
        """
        assert self.systematics is not None
        settings = {variation: values for _, variation, values in self.systematics.settings()}
        return parse_config(merge(self._plain(), deepcopy(dict(settings.get(name, {})))))

    @property
    def with_own_voxels(self) -> frozenset[str]:
        """The variations that act before the voxels, which are made again."""
        made = (self.input, self.cosmics)
        varied = {name: self.variation(name) for name in self.variations}
        return frozenset(name for name, config in varied.items() if (config.input, config.cosmics) != made)

    @property
    def cosmics(self) -> dict[str, float] | None:
        """Cosmic muons that the simulation adds (:class:`nuvlm.simulation.cosmics.Cosmics`), None without them."""
        rate = self.input.simulate.cosmics.rate_hz_m2
        if not rate:
            return None
        return {"rate_hz_m2": rate, "drift_velocity_mm_us": self.display.readout.drift_velocity_mm_us}

    @property
    def families(self) -> dict[str, FamilySettings]:
        """Family -> its section, for the families with models, in the order of the report."""
        sections: dict[str, FamilySettings] = {name: getattr(self, name) for name in FAMILIES}
        return {name: section for name, section in sections.items() if section.model_names(name)}

    @property
    def models(self) -> tuple[str, ...]:
        """All models of a run, in the order of the report."""
        return tuple(model for name, section in self.families.items() for model in section.model_names(name))

    @property
    def image_settings(self) -> dict[str, Any]:
        """Settings of the pixel maps as their stores state them; none for ready pixel maps."""
        if not self.input.has_voxels:
            return {}
        return {"pixel_mm": self.display.pixel_mm, **self.pixelmap.of_maps}

    @property
    def uses_base(self) -> bool:
        """Whether a model needs the base model of `vlm`."""
        folders = ("<base>/", f"{self.vlm.base_folder}/")
        inputs = [path for section in self.families.values() for path in section.classification().inputs.values()]
        return any(path.startswith(folders) for path in inputs)

    @property
    def trainings(self) -> dict[str, tuple[str, ...]]:
        """Model -> its trainings, the first of which is called like the model."""
        return {
            model: section.trainings_of(model)
            for name, section in self.families.items()
            for model in section.model_names(name)
        }

    @property
    def explained_models(self) -> tuple[str, ...]:
        """Models whose predictions are explained."""
        return tuple(model for model in self.models if family_of(model).explains and self.report.explain)


VARIED = ("display.", "input.recombination.", "input.simulate.")
"""Beginnings of the keys that a nuisance may change."""
SAME = (
    "display.pixel_mm",
    *(
        f"input.simulate.{name}"
        for name in (
            "events",
            "events_per_shard",
            "seed",
            "counterfactuals",
            "final_states",
            "vertices",
            "margin_mm",
            "margin_downstream_mm",
        )
    ),
)
"""Keys among them that make other events or other pixel maps."""
RENAMED = {"tree": "bdt"}
"""Former key -> the present one, both with dots: the error for a former key names its successor."""


def refuse_drawn_condition(first: str, compared: str) -> None:
    """Refuse a first condition that degrades the two of a pair of events with random numbers of their own.

    Args:
        first: the condition under which the pairs are compared.
        compared: the pairs, in words.

    Raises:
        ValueError: naming both.
    """
    kind, _ = degradation(first) or ("", 0)
    if kind in KINDS and KINDS[kind].drawn:
        raise ValueError(
            f"conditions: {first} draws other random numbers for each shard and event id, so {compared} would differ "
            "by them, too: put another condition first"
        )


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


def check_space_charge(configs: Iterable[Config]) -> None:
    """Check the maps of space charge with which displays are made, each once.

    Raises:
        InputError: see :func:`nuvlm.detector.space_charge.read_displacement_map`.
    """
    used = {
        (config.display.readout.space_charge, config.detector): None
        for config in configs
        if config.display.readout.space_charge.has_effects and config.input.has_voxels and config.events_from is None
    }
    for space_charge, detector in used:
        # Imported late: most runs have no map.
        from nuvlm.detector.space_charge import read_displacement_map

        read_displacement_map(space_charge, detector)


def read_overlays(files: Iterable[Path]) -> dict[str, Any]:
    """The merged values of a configuration file and its overlays; later ones win, key by key.

    Raises:
        InputError: a file cannot be read.
    """
    values: dict[str, Any] = {}
    for file in files:
        try:
            merge(values, yaml.safe_load(file.read_text()))
        except (OSError, yaml.YAMLError, AttributeError) as error:
            raise InputError(f"{file}: no readable configuration ({error}). Check the path and the YAML.") from error
    return values


def merge(base: dict[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """`base` updated with `overlay`, section by section, as Snakemake merges configuration files."""
    for key, value in overlay.items():
        section = base.get(key)
        base[key] = merge(section, value) if isinstance(section, dict) and isinstance(value, Mapping) else value
    return base


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
        inner = {Mapping: 1, tuple: 0}.get(get_origin(model))
        model = model.model_fields[str(part)].annotation if inner is None else get_args(model)[inner]
        if get_origin(model) is UnionType:  # what may be null
            model = get_args(model)[0]
    return list(model.model_fields)
