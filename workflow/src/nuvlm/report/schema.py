"""Description of report.json, key by key; source of resources/report.schema.json (``make schema``).

A report with a missing or an undescribed key is an error.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

VERSION = 3
"""Incremented when a key changes its name or meaning, not when one is added."""

SCORES = {"accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "auc": "AUC"}
"""Keys of :class:`Score` that have a bootstrap interval, and their titles on the page, in the LaTeX tables and
in the comparison of runs. :func:`nuvlm.evaluation.metrics.weighted_scores` computes them."""

Interval = Annotated[list[float], Field(min_length=2, max_length=2)] | None
"""Lower and upper end at 95 % confidence; null if undefined."""
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Values = list[float | None]


class Part(BaseModel):
    """Base class: strict types, finite numbers, no unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Roc(Part):
    """ROC curve of one class against the rest, at most 200 points."""

    fpr: list[Fraction]
    """Background efficiency."""
    tpr: list[Fraction]
    """Signal efficiency."""


class Dependence(Part):
    """Efficiency and purity against a true quantity; intervals are Clopper-Pearson."""

    edges: list[float] | None = None
    """Bin edges: GeV, or dimensionless for the inelasticity."""
    categories: list[str] | None = None
    """Category names, instead of edges."""
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
    """True events of the class."""
    selected: Count
    """Events classified as the class."""
    recall: Fraction | None
    recall_interval: Interval
    precision: Fraction | None
    precision_interval: Interval
    auc: Fraction | None
    auc_interval: Interval
    roc: Roc | None = None
    """This and the following keys: only for conditions shown in full."""
    rejection: dict[str, Fraction | None] | None = None
    """1 - background efficiency, by signal efficiency."""
    dependence: dict[str, Dependence | None] | None = None
    """By quantity: energy, inelasticity, visible_energy, containment, mode; null if unknown."""
    scores: dict[str, list[Count]] | None = None
    """Histogram of the probability of this class for each true class, in the bins of `score_edges`."""


class Reliability(Part):
    """Accuracy in bins of the confidence."""

    edges: list[float]
    confidence: Values
    """Mean confidence in each bin."""
    accuracy: Values
    accuracy_interval: list[Interval]
    accuracy_n: list[Count]


class Mistaken(Part):
    """Fraction of events classified as nu_e CC."""

    mistaken: Fraction | None
    mistaken_interval: Interval
    mistaken_n: Count


class Pions(Part):
    """Fraction of neutral-current events classified as nu_e CC, against the energy of the leading neutral pion."""

    edges: list[float]
    """GeV."""
    mistaken: Values
    mistaken_interval: list[Interval]
    mistaken_n: list[Count]
    without: Mistaken
    """The same for events without a neutral pion."""


class Score(Part):
    """One model under one condition."""

    n: Count
    """Events of the test split with known truth. If 0, all scores are null."""
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
    """Counts; rows are true classes, columns predicted classes, in the order of `classes`."""
    by_class: dict[str, ClassScore]
    score_edges: list[float] | None = None
    """This and pi0: only for conditions shown in full."""
    pi0: Pions | None = None
    predicted_without_truth: dict[str, Count]
    """Predicted classes of the events with unknown truth."""


class Difference(Part):
    """Difference of two classifiers, or two conditions, on the same events; McNemar's exact test."""

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
    detectable: float | None
    """Difference in accuracy that this test finds with a probability of 80 %."""


class Language(Part):
    """Paired comparisons of VLM, VLM head and ViT."""

    first: str
    second: str
    difference: float
    """Of the mean accuracies of all trainings; intervals from test events and from the spread between trainings."""
    difference_interval: Interval
    training_interval: Interval
    trainings: list[Count]
    better: str | None
    """The model that is better beyond both intervals."""
    p_value: Fraction
    detectable: float
    events: dict[str, Count]
    """Training events seen, over all epochs, by model."""
    seconds: dict[str, float | None]
    """Training time by model, s."""
    trained: dict[str, Count | None]
    """Parameters that were trained, by model."""
    conclusion: str


class Agreement(Part):
    """Events that both, one or neither of two models classifies correctly."""

    both: Count
    only_first: Count
    only_second: Count
    neither: Count


class AgreementByEnergy(Part):
    """The same in bins of neutrino energy."""

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
    trainings: tuple[Count, Count]
    """Numbers of trainings. The counts, `difference` and `p_value` are of the first of each."""
    mean_difference: float | None
    """Of the mean accuracies of all trainings, with its interval from test events."""
    mean_difference_interval: Interval
    training_interval: Interval
    """Interval of `mean_difference` from the spread between trainings; null if a model has one."""
    better: Literal["first", "second"] | None
    """The model that is better beyond both intervals, or by McNemar's test between single trainings."""
    by_class: dict[str, Agreement] | None = None
    """This and by_energy: only for conditions shown in full."""
    by_energy: AgreementByEnergy | None = None


class Spread(Part):
    """A score of each training."""

    values: list[Fraction | None]
    mean: Fraction | None
    deviation: float | None
    """Standard deviation of one training."""


class TrainingsUnderCondition(Part):
    scores: dict[str, Spread]
    accuracy_interval: Interval
    """Of the mean accuracy, from test events."""
    ensemble: dict[str, Fraction | Interval]
    """Scores of the mean probability, with intervals."""


class Trainings(Part):
    """Trainings of a model with different seeds."""

    n: Count
    conditions: dict[str, TrainingsUnderCondition]
    """Empty for one training, or without truth."""


class CurvePoint(Part):
    condition: str
    level: float
    n: Count
    accuracy: Fraction | None
    accuracy_interval: Interval


class Curve(Part):
    """Accuracy against the level of one kind of degradation."""

    axis: str
    """Meaning and unit of the level."""
    models: dict[str, list[CurvePoint]]


class Beam(Part):
    """Beam spectrum that the events of `cuts` are weighted to."""

    file: str
    effective_events: float
    """(sum w)^2 / sum w^2: number of unweighted events with the same statistical power."""
    left_out: Count
    """Test events outside the spectrum."""


class BestCut(Part):
    cut: Fraction
    efficiency: Fraction | None
    purity: Fraction | None
    significance: float | None
    product: Fraction | None
    chosen_on: Count
    """Events of the validation split."""


class Cuts(Part):
    """Scan of the cut on the probability of one class, on the test split."""

    cut: list[Fraction]
    efficiency: Values
    purity: Values
    significance: Values
    product: Values
    best: dict[str, BestCut | None]
    """By figure of merit: significance, product."""


class AnswersOfClass(Part):
    efficiency: Fraction | None
    """Fraction of the true events of the class that get it as the answer."""
    efficiency_interval: Interval
    purity: Fraction | None
    """Fraction of these answers that are right."""
    purity_interval: Interval


class Answers(Part):
    """A selection of events by answers, with bootstrap intervals."""

    kept: Fraction | None
    """Fraction of the events that get an answer."""
    kept_interval: Interval
    accuracy: Fraction | None
    """Of the answers."""
    accuracy_interval: Interval
    by_class: dict[str, AnswersOfClass]


class SetsAlong(Part):
    """Coverage and size of prediction sets against a true quantity; intervals are Clopper-Pearson."""

    edges: list[float] | None = None
    """Bin edges: GeV, or dimensionless for the inelasticity."""
    categories: list[str] | None = None
    """Category names, instead of edges."""
    coverage: Values
    coverage_interval: list[Interval]
    coverage_n: list[Count]
    """Events in each bin."""
    mean_size: Values


class SetsMeasured(Part):
    """Coverage and size of the prediction sets of test events."""

    n: Count
    coverage: Fraction | None
    """Fraction of the sets that hold the true class; the interval is Clopper-Pearson."""
    coverage_interval: Interval
    mean_size: float | None
    """Mean number of classes in a set; the interval is of a bootstrap."""
    mean_size_interval: Interval
    sizes: Annotated[list[Count], Field(min_length=4, max_length=4)]
    """Sets of no, one, two and three classes."""
    dependence: dict[str, SetsAlong | None] | None
    """By quantity, as in `scores`; null except under the first condition."""


class SetsOfClass(SetsMeasured):
    """The same for the true events of one class."""

    p_value: Fraction | None
    """Probability of so few covered events, or fewer, if validation and test events are exchangeable (beta-binomial);
    null if the class is in every set."""


class SetsUnderCondition(SetsMeasured):
    """Sets under one condition with the thresholds of the first one."""

    by_class: dict[str, SetsOfClass]
    recalibrated: SetsMeasured | None
    """With thresholds from the validation events under the same condition; null for the first one."""


class SetsWithoutTruth(Part):
    """Sets of events with unknown truth, under the first condition."""

    sizes: Annotated[list[Count], Field(min_length=4, max_length=4)]
    single: dict[str, Count]
    """Sets of this class only."""


class SpreadOfSize(Part):
    """The same as `Spread` for a mean size of sets."""

    values: Values
    mean: float | None
    deviation: float | None


class SetsOfTrainings(Part):
    """Sets of each training, with the thresholds of that training."""

    coverage: Spread
    mean_size: SpreadOfSize


class SetsOfModel(Part):
    threshold: dict[str, Fraction]
    """Lowest probability of each class with which it is in a set; 0: it is in every set."""
    conditions: dict[str, SetsUnderCondition]
    without_truth: SetsWithoutTruth
    answers: dict[str, Answers]
    """Under the first condition, weighted as `cuts`: `most_probable`, the most probable class of every event; `single`,
    the class of sets of one class, other sets being abstentions."""
    trainings: dict[str, SetsOfTrainings]
    """By condition; empty for one training, or without truth."""


class PredictionSets(Part):
    """Sets of classes with a promised coverage of each class: split conformal prediction."""

    level: Fraction
    """Promised coverage: report.coverage."""
    needed: Count
    """Validation events of a class without which it is in every set."""
    calibrated_on: dict[str, Count]
    """Validation events of each class."""
    models: dict[str, SetsOfModel]
    conclusions: list[str]
    """Where a class is in every set, and where the coverage is below the promise by more than its interval."""


class Change(Difference):
    """A model under a condition (first) compared with the reference condition (second)."""

    reference: str
    same_answer: Fraction | None
    """Fraction of unchanged answers."""


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
    """Result of a control condition for a model."""

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


class RationaleMetric(Part):
    """A fraction measured for rationales, with its three controls."""

    nominal: Share
    text_only: Share | None
    """With a black picture."""
    same_label: Fraction | None
    """Rationales exchanged between events with the same answer."""
    chance: Fraction | None
    """Rationales exchanged between any events."""
    difference: float | None
    """nominal - text_only."""
    difference_interval: Interval
    beyond_label: float | None
    """nominal - same_label."""
    beyond_label_interval: Interval


class ClaimError(Part):
    """Relative error claimed / true - 1."""

    n: Count | None = None
    """Number of claims; absent for exchanged rationales."""
    median: float | None
    spread: float | None
    """68 % quantile of the absolute value."""


class ClaimErrors(Part):
    nominal: ClaimError
    text_only: ClaimError | None = None
    chance: ClaimError
    points: list[list[float]]
    """Pairs of true and claimed value."""


class ConsistencyTree(Part):
    """Decision tree that maps true statements to a class."""

    depth: Count
    fitted_on: Count | None
    agreement: Share
    accuracy: Share


class Explanation(Part):
    """Faithfulness of the rationales of one model."""

    sentences: list[str]
    """What is said, how much of it is true, how much of that comes from the picture, by claim."""
    n: Count
    with_truth: Count
    right: RationaleMetric
    readable: RationaleMetric
    agreement: RationaleMetric
    claims: dict[str, dict[str, RationaleMetric]]
    """By statement and metric: made, right, precision, recall, within_one."""
    errors: dict[str, ClaimErrors]
    """track_cm, shower_mev, gap_cm."""
    tree: ConsistencyTree


class Saliency(Part):
    """Decrease of the probability of the predicted class if salient, or random, pixels are blackened."""

    n: Count
    blackened: Fraction
    """Fraction of the pixels with charge."""
    map: float | None
    map_interval: Interval
    random: float | None
    random_interval: Interval
    difference: float | None
    difference_interval: Interval


class FollowingAnswers(Part):
    """Answers for events of one class, as simulated and changed in one way."""

    kind: str
    """What is changed (docs/simulation.md)."""
    truth: str
    """Class of the events as simulated."""
    tracked: str
    """The class that the change argues against, or for if `rises`."""
    rises: bool
    before: Share
    """Of all pairs, answered with `tracked` as simulated."""
    after: Share
    """Of all pairs, answered with `tracked` when changed."""
    follows: Share
    """Of the answers that the change argues against, those that change from, or to, `tracked`."""
    control: Share
    """Of these answers, in events that also have a control, those that change in the same way there."""
    beyond_control: float | None
    """`follows` minus `control`, of the events of `control`."""
    beyond_control_interval: Interval
    changed: Share
    """Of all pairs, another answer."""
    answers_after: dict[str, Count]
    """Answers for the changed events that `follows` counts."""
    shift: float | None
    """Mean change of the probability of `tracked`, of all pairs."""
    shift_interval: Interval


class FollowingClaims(Part):
    """Claims of rationales for events as simulated and changed in one way."""

    follows: Share
    """Of right claims that are wrong of the changed event, those that its rationale makes right."""
    stays: Share
    """Of right claims that are still true, those that are made again."""


class Overlap(Part):
    """Saliency on the particle that is left out, means over events."""

    n: Count
    saliency: float | None
    charge: float | None
    """Fraction of the charge: a map that is nothing but the charge."""
    area: float | None
    """Fraction of the pixels with charge: a map that is the same everywhere."""
    beyond_charge: float | None
    beyond_charge_interval: Interval
    beyond_area: float | None
    beyond_area_interval: Interval


class SaliencyOnParticle(Part):
    groups: dict[str, Overlap]
    """`all` events, and those whose answer `flips` or `stays` without the particle."""
    difference: float | None
    """Of `beyond_charge`, `flips` minus `stays`."""
    difference_interval: Interval


class Counterfactuals(Part):
    """Answers, claims and saliency for events with one particle left out, moved or drawn again (docs/report.md)."""

    conclusions: list[str]
    pairs: dict[str, Count]
    """By kind."""
    answers: dict[str, list[FollowingAnswers]]
    """By model."""
    claims: dict[str, dict[str, dict[str, FollowingClaims]]]
    """By model, kind and statement."""
    saliency: dict[str, SaliencyOnParticle]
    """By model."""


class Training(Part):
    """From training.json; missing values are null."""

    network: str | None
    """Of a CNN: its name in the recipe."""
    seconds: float | None
    events: Count | None
    epochs: float | None
    parameters: Count | None
    trainable_parameters: Count | None
    peak_memory_mb: float | None
    device: str | None


class Cost(Part):
    """Cost of classification under the first condition (all parts together) and of training."""

    events: Count
    ms_per_sample: float | None
    joules_per_sample: float | None
    energy_measured: bool
    """True if measured by hardware counters in all parts; otherwise an estimate."""
    energy_how: str
    peak_memory_mb: float
    """Of the largest part."""
    load_seconds: float
    device: str
    batch_size: Count
    training: Training


class Departure(Part):
    """A setting that differs from the published setup."""

    what: str
    run: Any
    published: Any


class Source(Part):
    title: str
    authors: str
    reference: str
    url: str
    versions: dict[str, str]
    """Version -> where its numbers come from."""


class PublishedRow(Part):
    """Results of a model in a version of the paper."""

    version: str
    accuracy: Fraction | None = None
    precision: Fraction | None = None
    recall: Fraction | None = None
    auc: Fraction | None = None
    peak_memory_mb: float | None = None
    ms_per_sample: float | None = None


class PublishedTable(Part):
    number: Count
    title: str
    condition: str
    rows: dict[str, list[PublishedRow]]
    """Model -> its rows, in the order of the versions."""
    note: str | None = None


class Published(Part):
    """Content of resources/published.yaml."""

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
    """An event of the event browser."""

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
    """Models with a saliency map of this event."""


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
    """Complete configuration (config/schema.json)."""
    events: dict[str, dict[str, Count]]


class Windows(Part):
    """Windows of the pixel maps, of all events of the run; without entries for maps made elsewhere."""

    events: Count
    centre: str | None
    """What they were to be centred on: pixelmap.centre."""
    centred_by: dict[str, Count]
    """Events by what they are centred on."""
    fell_back: Fraction | None
    """Fraction of the events that are centred on something else than `centre`."""
    cut: Count
    """Events of which the window holds less than half of the charge."""


class Report(Part):
    """Content of report.json."""

    format: Literal["nuvlm-report"]
    version: Literal[3]
    run: str | None
    headline: str
    summary: list[str]
    classes: list[str]
    """Order of the classes in every matrix."""
    events: dict[str, dict[str, Count]]
    """Number of events by split and class; `none`: no split or class."""
    windows: Windows
    scores: dict[str, dict[str, Score]]
    """By model and condition."""
    robustness: dict[str, Curve]
    """By kind of degradation in the run: resolution, noise, dead, diffusion, scale."""
    calibration: dict[str, Calibration]
    """By model, under the first condition."""
    spectrum: Beam | None
    cuts: dict[str, dict[str, Cuts]]
    """By model and class, under the first condition."""
    sets: PredictionSets
    comparisons: list[Comparison]
    trainings: dict[str, Trainings]
    """By model."""
    changes: dict[str, dict[str, Change]]
    """By model and condition."""
    explanations: dict[str, Explanation]
    """By model; empty with `report.explain: 0`."""
    saliency: dict[str, Saliency | None]
    """By model."""
    counterfactuals: Counterfactuals | None
    """Null in a run without them."""
    controls: list[Control]
    language: list[Language]
    """Does language help? Empty without both models or without truth."""
    cost: dict[str, Cost]
    departures: list[Departure]
    """Settings that differ from the published setup."""
    published: Published
    gallery: list[GalleryEvent]
    provenance: Provenance


def check_report(numbers: Mapping[str, Any]) -> None:
    """Validate the content of report.json before it is written.

    Raises:
        pydantic.ValidationError: names every key that is missing, unknown or has a wrong value.
    """
    Report.model_validate_json(json.dumps(numbers))


def json_schema() -> str:
    """The JSON schema of report.json, as kept in resources/report.schema.json."""
    return json.dumps(Report.model_json_schema(), indent=1) + "\n"
