"""Settings of nuisances: what a systematic uncertainty varies, and by how much (docs/systematics.md).

Light to import: the configuration is checked with it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from nuvlm.base.classes import CLASSES
from nuvlm.base.settings import FilePath, Settings

NOMINAL = "nominal"
"""The variation with the settings of the run."""
PLUS, MINUS = "plus", "minus"
COUNTS = {"n_proton": 2212, "n_neutron": 2112, "n_pion": 211, "n_pi0": 111}
"""Numbers of particles in the final state, of either charge: column -> PDG code (protons above 20 MeV only)."""
TRUTH = ("class", "nu_pdg", "is_cc", "nu_energy", "inelasticity", "mode", "pi0_energy")
"""Columns of the event table that events can be reweighted by."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Range(Settings):
    """Values from `low` on, and below `high`; null: no limit."""

    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"no value is from {self.low:g} on and below {self.high:g}: exchange them, or mend one")
        return self


class Reweighting(Settings):
    """Which events a factor acts on, by columns of their truth."""

    where: Mapping[str, float | str | Range] = Field(default_factory=dict)
    """Column -> its value, or range of values; all must hold. Events that are unknown in a column keep their weight."""
    per: str | None = None
    """A column of counts: the weight is the factor to the power of the count, which makes a Poisson distribution of
    mean m one of mean factor x m. Null: the factor."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are used."""
        return tuple(dict.fromkeys([*self.where, *([self.per] if self.per else [])]))

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = (*TRUTH, *COUNTS)
        if unknown := [name for name in self.columns if name not in known]:
            raise ValueError(f"there is no column {unknown[0]} of the truth; known: {', '.join(known)}")
        if self.per is not None and self.per not in COUNTS:
            raise ValueError(f"per: {self.per} is no count; known: {', '.join(COUNTS)}")
        for name, value in self.where.items():
            if name == "class" and value not in CLASSES:
                raise ValueError(f"class: there is no class {value!r}; known: {', '.join(CLASSES)}")
            if name != "class" and isinstance(value, str):
                raise ValueError(f"{name}: {value!r} is no number: write one, or a range {{low: ..., high: ...}}")
        return self


class Nuisance(Settings):
    """A source of systematic uncertainty, at +1 and -1 standard deviation."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
    title: Annotated[str, Field(min_length=1)]
    """For people, with the size of the variation."""
    source: Annotated[str, Field(min_length=1)]
    """Where the standard deviation comes from."""
    plus: Mapping[str, Any] | Positive | None = None
    """Settings at +1 standard deviation, as in an overlay of the configuration; or, with `weights`, a factor."""
    minus: Mapping[str, Any] | Positive | None = None
    """The same at -1 standard deviation."""
    one_sided: bool = False
    """The nominal value is the end of the range, such as no noise: there is no `minus`."""
    weights: Reweighting | None = None
    """Reweights the nominal events, in place of other settings; exact for what the truth states."""

    @property
    def variations(self) -> dict[str, Any]:
        """``{name}_plus`` and, unless one-sided, ``{name}_minus`` -> settings or factor."""
        both = {PLUS: self.plus} if self.one_sided else {PLUS: self.plus, MINUS: self.minus}
        return {f"{self.name}_{sign}": value for sign, value in both.items()}

    @model_validator(mode="after")
    def _check(self) -> Self:
        missing = [sign for sign, value in ((PLUS, self.plus), (MINUS, self.minus)) if value is None]
        if self.one_sided and self.minus is not None:
            raise ValueError("one_sided has no minus: leave out one of them")
        if missing and not (self.one_sided and missing == [MINUS]):
            raise ValueError(
                f"there is no range: {' and '.join(missing)} missing. Give its settings at +1 and -1 "
                "standard deviation, or one_sided: true where the nominal value is the end of the range"
            )
        for name, value in self.variations.items():
            sign = name.removeprefix(self.name)[1:]
            if isinstance(value, float) is (self.weights is None):
                what = "a factor on the events of weights" if self.weights else "settings, such as {display: ...}"
                raise ValueError(f"{sign} must be {what}")
            if value in (1.0, {}):
                raise ValueError(f"{sign} changes nothing, so its standard deviation is 0")
        if len({repr(value) for value in self.variations.values()}) < len(self.variations):
            raise ValueError("plus and minus are the same")
        return self


class Systematics(Settings):
    """Test events of a finished run, made and classified again with each nuisance."""

    nuisances: Annotated[tuple[Nuisance, ...], Field(min_length=1)]
    run: str | None = None
    """The run whose test events are made again; this and the shards are written by `make systematics`."""
    shards: Mapping[str, Mapping[str, FilePath]] = Field(default_factory=dict)
    """Blocks of test events -> the shards of the run that they are from -> their voxels."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_nuisances(self.nuisances)
        return self

    def settings(self) -> Iterator[tuple[Nuisance, str, Mapping[str, Any]]]:
        """Nuisance, variation and settings of each variation that makes events again."""
        for nuisance in self.nuisances:
            if nuisance.weights is None:
                yield from ((nuisance, name, value) for name, value in nuisance.variations.items())


def check_nuisances(nuisances: Sequence[Nuisance]) -> None:
    """Check that no nuisance is counted twice.

    Raises:
        ValueError: two have the same name, or the same variation.
    """
    names = [nuisance.name for nuisance in nuisances]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two nuisances are called {repeated[0]}: rename or remove one")
    seen: dict[str, str] = {}
    for nuisance in nuisances:
        for value in nuisance.variations.values():
            what = repr((value, nuisance.weights))
            if seen.setdefault(what, nuisance.name) != nuisance.name:
                raise ValueError(
                    f"nuisances {seen[what]} and {nuisance.name} are the same variation, which would count twice: "
                    "remove one"
                )


def variation_shard(variation: str, shard: str) -> str:
    """The name of a shard made with a variation."""
    return f"{variation}.{shard}"


def split_variation(name: str) -> tuple[str, str]:
    """Variation, empty for none, and shard of a name; names of variations have no dot."""
    variation, dot, shard = name.partition(".")
    return (variation, shard) if dot else ("", name)
