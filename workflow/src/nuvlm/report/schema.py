"""What report.json holds, key by key. The JSON schema of it is made from here (resources/report.schema.json).

A key that stands here and not in a report, or the reverse, is an error, so that the description cannot fall behind.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

VERSION = 3
"""Raised when a key changes its name or meaning; new keys leave it."""

SCORES = {"accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "auc": "AUC"}
"""Keys of :class:`Score` that have a bootstrap interval, and their titles in the tables of the page, in the LaTeX tables
and in the comparison of runs. :func:`nuvlm.evaluation.metrics.weighted_scores` computes them."""

Interval = Annotated[list[float], Field(min_length=2, max_length=2)] | None
"""Lower and upper end at 95 % confidence; null where there is nothing to measure."""
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Values = list[float | None]


class Part(BaseModel):
    """Strict: a number is no text, infinite ones are none, and every key is known."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Roc(Part):
    """One class against the rest, at most 200 points."""

    fpr: list[Fraction]
    """Background efficiency."""
    tpr: list[Fraction]
    """Signal efficiency."""


class Dependence(Part):
    """Against what truth knows of an event; intervals are Clopper-Pearson."""

    edges: list[float] | None = None
    """Of the bins; GeV, or a share."""
    categories: list[str] | None = None
    """Instead of edges."""
    efficiency: Values
    efficiency_interval: list[Interval]
    efficiency_n: list[Count]
    """True events in each bin."""
    purity: Values
    purity_interval: list[Interval]
    purity_n: list[Count]
    """Selected events in each bin."""


class ClassScore(Part):
    """One class under one condition."""

    n: Count
    """Events that are of the class."""
    selected: Count
    """Events that are taken for it."""
    recall: Fraction | None
    recall_interval: Interval
    precision: Fraction | None
    precision_interval: Interval
    auc: Fraction | None
    auc_interval: Interval
    roc: Roc | None = None
    """From here on of conditions shown in full alone."""
    rejection: dict[str, Fraction | None] | None = None
    """1 - background efficiency, by the signal efficiency at which it is read."""
    dependence: dict[str, Dependence | None] | None = None
    """energy, inelasticity, visible_energy, containment, mode; null what is not known."""
    scores: dict[str, list[Count]] | None = None
    """Histogram of this class's probability for each true class, in the bins of `score_edges`."""


class Reliability(Part):
    """Accuracy in bins of the confidence."""

    edges: list[float]
    confidence: Values
    """Mean of each bin."""
    accuracy: Values
    accuracy_interval: list[Interval]
    accuracy_n: list[Count]


class Mistaken(Part):
    mistaken: Fraction | None
    mistaken_interval: Interval
    mistaken_n: Count


class Pions(Part):
    """Neutral currents taken for nu_e CC, against the energy of their leading neutral pion."""

    edges: list[float]
    """GeV."""
    mistaken: Values
    mistaken_interval: list[Interval]
    mistaken_n: list[Count]
    without: Mistaken
    """Those without a neutral pion."""


class Score(Part):
    """One model under one condition."""

    n: Count
    """Events of the test split with known truth; all others here are null or empty where it is 0."""
    accuracy: Fraction | None
    accuracy_interval: Interval
    precision: Fraction | None
    """Mean over the classes, as are recall and AUC."""
    precision_interval: Interval
    recall: Fraction | None
    recall_interval: Interval
    auc: Fraction | None
    auc_interval: Interval
    ece: Fraction | None
    confusion: list[list[Count]]
    """Rows are the truth, columns the answer, in the order of `classes`."""
    by_class: dict[str, ClassScore]
    score_edges: list[float] | None = None
    """Of conditions shown in full alone, as are pions."""
    pi0: Pions | None = None
    predicted_without_truth: dict[str, Count]
    """Answers for the events whose truth is not known."""


class Difference(Part):
    """Two sides on the same events: McNemar's exact test."""

    n: Count
    both: Count
    only_first: Count
    only_second: Count
    neither: Count
    difference: float | None
    """In accuracy, first minus second."""
    difference_interval: Interval
    """Paired bootstrap."""
    p_value: Fraction | None


class Agreement(Part):
    both: Count
    only_first: Count
    only_second: Count
    neither: Count


class AgreementByEnergy(Part):
    edges: list[float]
    """GeV."""
    both: list[Count]
    only_first: list[Count]
    only_second: list[Count]
    neither: list[Count]


class Comparison(Difference):
    """Two models under one condition."""

    first: str
    second: str
    condition: str
    by_class: dict[str, Agreement] | None = None
    """Of conditions shown in full alone, as is the energy."""
    by_energy: AgreementByEnergy | None = None


class CurvePoint(Part):
    condition: str
    level: float
    n: Count
    accuracy: Fraction | None
    accuracy_interval: Interval


class Curve(Part):
    """Accuracy against the level of one kind of degradation."""

    axis: str
    """What a level is."""
    models: dict[str, list[CurvePoint]]


class Beam(Part):
    """The spectrum that cuts are weighted by."""

    file: str
    effective_events: float
    left_out: Count
    """Test events without a weight."""


class BestCut(Part):
    cut: Fraction
    efficiency: Fraction | None
    purity: Fraction | None
    significance: float | None
    product: Fraction | None
    chosen_on: Count
    """Events of the validation split."""


class Cuts(Part):
    """Of one class, on the test split."""

    cut: list[Fraction]
    efficiency: Values
    purity: Values
    significance: Values
    product: Values
    best: dict[str, BestCut | None]
    """By figure of merit: significance, product."""


class Change(Difference):
    """A model under a condition (first) against the reference condition (second)."""

    reference: str
    same_answer: Fraction | None
    """Share of answers that stay."""


class Temperature(Part):
    temperature: float | None
    ece: Fraction | None
    nll: float | None
    """Mean of -ln p of the true class."""
    reliability: Reliability | None


class Calibration(Part):
    fitted_on: Count
    """Events of the validation split."""
    temperatures: dict[str, Temperature]
    """plain, published and fitted."""


class Control(Part):
    """What a control says of a model."""

    model: str
    control: str
    reference: str
    accuracy: Fraction
    accuracy_reference: Fraction
    same_answer: Fraction | None
    conclusion: str


class Share(Part):
    value: Fraction | None
    interval: Interval
    n: Count


class Told(Part):
    """A share of rationales, beside its three controls."""

    nominal: Share
    text_only: Share | None
    """Of a black picture."""
    same_label: Fraction | None
    """Exchanged between events with the same answer."""
    chance: Fraction | None
    """Exchanged between any."""
    difference: float | None
    """nominal less text_only."""
    difference_interval: Interval
    beyond_label: float | None
    """nominal less same_label."""
    beyond_label_interval: Interval


class ClaimError(Part):
    """claimed / true - 1."""

    n: Count | None = None
    """Claims; of those exchanged it is not told."""
    median: float | None
    spread: float | None
    """Holds 68 % of the absolute values."""


class ClaimErrors(Part):
    nominal: ClaimError
    text_only: ClaimError | None = None
    chance: ClaimError
    points: list[list[float]]
    """True and claimed."""


class Occluded(Part):
    vanished: Share
    left: float | None
    """Median of the claimed length or energy after and before."""


class Occlusion(Part):
    taken_out: Occluded
    control: Occluded
    n: Count
    difference: float | None
    difference_interval: Interval


class Tree(Part):
    depth: Count
    fitted_on: Count | None
    agreement: Share
    accuracy: Share


class Explanation(Part):
    """What the rationales of one model are worth."""

    n: Count
    with_truth: Count
    right: Told
    readable: Told
    agreement: Told
    claims: dict[str, dict[str, Told]]
    """By statement, then made, right, precision, recall, within_one."""
    errors: dict[str, ClaimErrors]
    """track_cm, shower_mev, gap_cm."""
    occlusion: dict[str, Occlusion]
    """shower, track."""
    tree: Tree


class Saliency(Part):
    """What the probability of the CNN's class falls by when the pixels are black where the CNN looks."""

    n: Count
    blackened: Fraction
    map: float | None
    map_interval: Interval
    random: float | None
    random_interval: Interval
    difference: float | None
    difference_interval: Interval


class Training(Part):
    """From training.json; null what it lacks."""

    seconds: float | None
    events: Count | None
    epochs: float | None
    parameters: Count | None
    trainable_parameters: Count | None
    peak_memory_mb: float | None
    device: str | None


class Cost(Part):
    """Of classifying under the first condition, all parts together, and of training."""

    events: Count
    ms_per_sample: float | None
    joules_per_sample: float | None
    energy_measured: bool
    """By counters alone; else it is an estimate."""
    energy_how: str
    peak_memory_mb: float
    """Of the largest part."""
    load_seconds: float
    device: str
    batch_size: Count
    training: Training


class Departure(Part):
    what: str
    run: Any
    published: Any


class Source(Part):
    title: str
    authors: str
    reference: str
    url: str


class PublishedTable(Part):
    number: Count
    title: str
    condition: str
    rows: dict[str, dict[str, float]]
    note: str | None = None


class Published(Part):
    """resources/published.yaml."""

    source: Source
    tables: list[PublishedTable]
    training: dict[str, dict[str, Any]]
    setup: list[dict[str, Any]]


class Claim(Part):
    statement: str
    claimed: float
    true: float | None
    right: bool | None


class Rationale(Part):
    picture: str
    rationale: str
    claims: list[Claim]


class Answer(Part):
    predicted: str
    p: dict[str, Fraction]


class GalleryEvent(Part):
    """An event that is shown."""

    shard: str
    event_id: Count
    truth: str | None
    mode: str | None
    nu_energy_gev: float | None
    inelasticity: float | None
    visible_energy_gev: float | None
    vertex_cm: Values
    outcome: str
    models: dict[str, Answer]
    explanations: dict[str, list[Rationale]]
    drawn: Literal["display", "pixel map"]
    views: list[str]
    saliency: list[str]
    """CNNs of which it is known where they look."""


class Machine(Part):
    cpu: str
    cores: Count | None
    system: str


class Provenance(Part):
    date: str
    commit: str | None
    uncommitted_changes: bool
    seeds: dict[str, int]
    versions: dict[str, str | None]
    machine: Machine
    config: dict[str, Any]
    """All settings (config/schema.json)."""
    events: dict[str, dict[str, Count]]


class Report(Part):
    """report.json."""

    format: Literal["nuvlm-report"]
    version: Literal[3]
    run: str | None
    headline: str
    summary: list[str]
    classes: list[str]
    """Their order in every matrix."""
    events: dict[str, dict[str, Count]]
    """By split and class; `none` where there is none."""
    scores: dict[str, dict[str, Score]]
    """By model and condition."""
    robustness: dict[str, Curve]
    """By kind: resolution, noise, dead, diffusion, scale, of those that the run has."""
    calibration: dict[str, Calibration]
    """By model, under the first condition."""
    spectrum: Beam | None
    cuts: dict[str, dict[str, Cuts]]
    """By model and class, under the first condition."""
    comparisons: list[Comparison]
    changes: dict[str, dict[str, Change]]
    """By model and condition."""
    explanations: dict[str, Explanation]
    """By model; empty where nothing was explained."""
    saliency: dict[str, Saliency | None]
    """By model."""
    controls: list[Control]
    cost: dict[str, Cost]
    departures: list[Departure]
    """Settings in which the run departs from the published ones."""
    published: Published
    gallery: list[GalleryEvent]
    provenance: Provenance


def check_report(numbers: Mapping[str, Any]) -> None:
    """Check the content of a report.json before it is written.

    Raises:
        pydantic.ValidationError: naming every key that is missing, unknown or of another kind.
    """
    Report.model_validate_json(json.dumps(numbers))


def json_schema() -> str:
    """The JSON schema of report.json, as kept in resources/report.schema.json."""
    return json.dumps(Report.model_json_schema(), indent=1) + "\n"
