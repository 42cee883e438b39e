"""How often each model is right on real DUNE CVN maps: five folds, so that every labelled event is tested once.

    python benchmarks/cvn_folds.py pixel_maps.h5 [--models bdt vlm] [--threads 2] [--work results/cvn_folds]

For each fold, as large as the others and with the same share of each class, models are trained as a run with
config/dune_cvn.yaml trains them, on what is not in the fold; a share of that (dataset.validation of all events) is kept
for early stopping. No setting is chosen here. The VLM starts from one base model, which has seen no event. Of the
answers for all events: accuracy and recall with Clopper-Pearson intervals, the spread over the folds, and McNemar's
test between every two models. The intervals are about which events there are; the spread is also about the training.

The CNNs are trained on maps at half the resolution, the mean of 2 x 2 pixels, as ten trainings at the full one take
some hours; the VLM's tower sees coarser ones still (vlm.scratch.image_size), the tree the full ones.

A model's answers for a fold are kept in the folder of `--work`, and trainings that were stopped go on: run it again, or
for one model after the other. The result is printed, as a table too, and written to results/cvn_folds.json beside this
file.
"""

import argparse
import json
import logging
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import StratifiedKFold, train_test_split
from snakemake.utils import update_config

import nuvlm.models.vlm.jobs  # noqa: F401
from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.files import read_json, sha256, write_json, write_table
from nuvlm.base.manifest import MANIFEST
from nuvlm.base.stores import create_store
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.list_events import list_events
from nuvlm.dataset.pixelmaps import open_pixel_maps
from nuvlm.evaluation.comparison import compare
from nuvlm.evaluation.intervals import binomial_interval
from nuvlm.models.bdt.classify import classify_bdt
from nuvlm.models.bdt.training import train_bdt
from nuvlm.models.cnn.classify import classify_cnn
from nuvlm.models.cnn.training import train_cnn
from nuvlm.models.degradations import degrade
from nuvlm.models.predictions import read_predictions
from nuvlm.models.vlm.classify import classify_vlm
from nuvlm.models.vlm.pretraining import build_base_model
from nuvlm.models.vlm.training import Job, finetune
from nuvlm.sources.cvn import convert_cvn
from nuvlm.sources.ready_maps import PixelMapWriter
from nuvlm.workflow.config import Config, parse_config

REPOSITORY = Path(__file__).parents[1]
FOLDS, SEED = 5, 7

logger = logging.getLogger("cvn_folds")


def read_config(*files: Path) -> Config:
    """The configuration in `files`, each laid over those before."""
    values: dict[str, Any] = {}
    for file in files:
        update_config(values, yaml.safe_load(file.read_text(encoding="utf-8")))
    return parse_config(values)


def fold_tables(events: pd.DataFrame, folds: int, validation: float, seed: int) -> list[pd.DataFrame]:
    """An event table for each fold, in which the fold is the split ``test`` and part 0.

    Args:
        events: of whatever splits; those without a class are left out.
        validation: share of all labelled events, taken from what is not in the fold.
    """
    table = events[events["class"].notna()].reset_index(drop=True)
    labels = table["class"].to_numpy()
    tables = []
    for rest, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels):
        kept = round(validation * len(table))
        _, stop = train_test_split(rest, test_size=kept, stratify=labels[rest], random_state=seed)
        split = np.full(len(table), "train", dtype=object)
        split[test], split[stop] = "test", "validation"
        part = np.where(split == "test", 0, -1)
        tables.append(table.assign(split=pd.Series(split, dtype="string"), part=part))
    return tables


@dataclass(frozen=True)
class Folds:
    """The maps of a file, the folds of its labelled events, and the models' answers, in a folder.

    Attributes:
        file: DUNE CVN maps (docs/pixelmaps.md).
        work: the folder.
        config: how models are trained.
    """

    file: Path
    work: Path
    config: Config
    folds: int = FOLDS
    seed: int = SEED
    threads: int = 1

    @property
    def stores(self) -> dict[str, Path]:
        return {"maps": self.work / "maps.zarr"}

    @property
    def halved(self) -> dict[str, Path]:
        """The same at half the resolution."""
        return {"maps": self.work / "halved.zarr"}

    def events(self, fold: int) -> Path:
        return self.work / "events" / f"{fold}.parquet"

    def prepare(self) -> None:
        """Convert the maps and divide their events.

        Raises:
            InputError: the folder is of another file, or of other folds.
        """
        made_of = {
            "file": sha256(self.file),
            "views": self.config.input.views,
            "validation": self.config.dataset.validation,
            "folds": self.folds,
            "seed": self.seed,
        }
        if not self._is_of(self.work / "folds.json", made_of):
            truth = self.work / "truth.parquet"
            settings = self.config.input.model_dump(include={"views", "on_bad_event"})
            convert_cvn(self.file, PixelMapWriter(store=self.stores["maps"], truth=truth, **settings))
            listed, dataset = self.work / "events.parquet", self.config.dataset
            list_events(
                {"maps": truth}, self.stores, listed, detector=self.config.detector, validation=dataset.validation,
                test=dataset.test, seed=dataset.seed, parts=1, train=False,
            )  # fmt: skip
            for fold, table in enumerate(fold_tables(read_events(listed), self.folds, dataset.validation, self.seed)):
                write_table(self.events(fold), table)
            write_json(self.work / "folds.json", made_of)

    def _halve(self) -> None:
        (whole,), (half,) = (list(stores.values()) for stores in (self.stores, self.halved))
        if half.exists():
            return
        maps = open_pixel_maps(whole)
        images = degrade("half_resolution", np.asarray(maps["images"]), pd.DataFrame(), {})
        with create_store(half, {**maps.attrs, "size": images.shape[-1]}) as store:
            store.append("images", images)
            for name in ("corner_mm", "event_id"):
                store.append(name, np.asarray(maps[name]))

    def predict(self, model: str) -> list[Path]:
        """Tables of what `model`, trained without the fold, says of each fold's events: those that are not there yet.

        Raises:
            InputError: some are there of other settings; what training and classifying raise.
        """
        folder = self.work / model
        settings = self._settings(model)
        if not self._is_of(folder / "settings.json", settings):
            write_json(folder / "settings.json", settings)
        tables = [folder / f"{fold}.parquet" for fold in range(self.folds)]
        for fold, table in enumerate(tables):
            if not table.exists():
                logger.info("%s, fold %d of %d", model, fold + 1, self.folds)
                self._train_and_classify(model, fold, table)
        return tables

    @staticmethod
    def _is_of(path: Path, value: dict[str, Any]) -> bool:
        """Whether the file `path` is there; what it holds must be `value`."""
        if not path.exists():
            return False
        if read_json(path) != json.loads(json.dumps(value)):
            raise InputError(f"{path.parent}: was made of another file or with other settings. Remove it and rerun.")
        return True

    def _settings(self, model: str) -> dict[str, Any]:
        if model == "bdt":
            return self.config.bdt.model_dump(mode="json")
        if model == "vlm":
            return self.config.vlm.model_dump(mode="json", include={"scratch", "finetune", "classify"})
        return self.config.cnn.recipe_settings(model.removeprefix("cnn_")).model_dump(mode="json")

    def _train_and_classify(self, model: str, fold: int, table: Path) -> None:
        out = self.work / model / f"model{fold}"
        # One checkpoint per fold, which an interrupted training resumes from.
        checkpoint, tensorboard = out.with_name(f"checkpoint{fold}"), out.with_name(f"tensorboard{fold}")
        events, trained = self.events(fold), (out / MANIFEST).exists()
        outputs = {"nominal": table}
        if model == "bdt":
            if not trained:
                train_bdt(events, self.stores, out, settings=self.config.bdt)
            classify_bdt(out, events, self.stores, outputs, part=0, batch_size=self.config.bdt.classify_batch_size)
        elif model == "vlm":
            self._finetune_and_classify(fold, out, checkpoint, tensorboard, outputs, trained=trained)
        else:
            self._halve()
            if not trained:
                recipe = self.config.cnn.recipe_settings(model.removeprefix("cnn_"))
                train_cnn(events, self.halved, out, checkpoint, tensorboard, settings=recipe, threads=self.threads)
            classify_cnn(
                out, events, self.halved, outputs, part=0, batch_size=self.config.cnn.classify_batch_size,
                threads=self.threads,
            )  # fmt: skip

    def _finetune_and_classify(
        self, fold: int, out: Path, checkpoints: Path, tensorboard: Path, outputs: dict[str, Path], *,
        trained: bool,
    ) -> None:  # fmt: skip
        settings = self.config.vlm
        base = out.with_name("base")
        prompts, vocabulary = REPOSITORY / settings.prompts, REPOSITORY / settings.vocabulary
        torch.set_num_threads(self.threads)
        if not (base / MANIFEST).exists():
            build_base_model(
                base, settings.scratch, prompts=prompts, vocabulary=vocabulary,
                chat_template=REPOSITORY / "resources" / "chat_templates" / "mllama.jinja",
                tensorboard=base.with_name("tensorboard_base"), pixel_maps=self.stores["maps"],
            )  # fmt: skip
        if not trained:
            job = Job(
                base=base, events=self.events(fold), stores=self.stores, out=out, checkpoints=checkpoints,
                tensorboard=tensorboard, prompts=prompts, settings=settings.finetune,
                vocabulary=vocabulary if settings.finetune.rationales == "grounded" else None,
            )  # fmt: skip
            finetune(job)
        classify_vlm(
            base, out, self.events(fold), self.stores, outputs, part=0, prompts=prompts, settings=settings.classify,
            quantization=settings.finetune.quantization, bf16=settings.finetune.bf16,
        )  # fmt: skip


def measure(folds: Folds, models: Sequence[str]) -> dict[str, Any]:
    """Train and classify what is not there yet, and score it.

    Returns:
        `events` of each class; `models`, of each the numbers of :func:`score`; `comparisons` of every two.
    """
    folds.prepare()
    tables = [read_events(folds.events(fold)) for fold in range(folds.folds)]
    truth = tables[0]["class"]
    answers = {model: out_of_fold(tables, folds.predict(model)) for model in models}
    return {
        "folds": folds.folds,
        "events": {label: int((truth == label).sum()) for label in CLASSES},
        "in_a_fold": {split: int((tables[0]["split"] == split).sum()) for split in ("train", "validation", "test")},
        "models": {model: score(table) for model, table in answers.items()},
        "comparisons": [
            {"first": first, "second": second}
            | compare(*((answers[model]["predicted"] == truth).to_numpy() for model in (first, second)), seed=SEED)
            for first, second in combinations(models, 2)
        ],
    }


def out_of_fold(tables: Sequence[pd.DataFrame], predictions: Sequence[Path]) -> pd.DataFrame:
    """`class`, `predicted` and `fold` of every event of the event tables, in their order: what was said without it.

    Raises:
        InputError: a table of predictions is of other events than its fold.
    """
    found = tables[0][["class"]].copy()
    for fold, (table, path) in enumerate(zip(tables, predictions, strict=True)):
        test, said = table[table["split"] == "test"], read_predictions([path])
        if not np.array_equal(test["event_id"], said["event_id"]):
            raise InputError(f"{path}: is not about the events of fold {fold}. Remove it and rerun.")
        found.loc[test.index, "predicted"] = said["predicted"].to_numpy()
        found.loc[test.index, "fold"] = fold
    return found


def score(answers: pd.DataFrame) -> dict[str, Any]:
    """Accuracy over all events and in each fold, recall of each class, and what was taken for what."""
    right = answers["predicted"] == answers["class"]
    in_folds = right.groupby(answers["fold"]).mean()
    return {
        "right": int(right.sum()),
        "accuracy": float(right.mean()),
        "interval": binomial_interval(int(right.sum()), len(right)),
        "in_folds": in_folds.tolist(),
        "spread": float(in_folds.std(ddof=1)),
        "recall": {
            label: {
                "value": float(right[answers["class"] == label].mean()),
                "interval": binomial_interval(
                    int(right[answers["class"] == label].sum()), int((answers["class"] == label).sum())
                ),
            }
            for label in CLASSES
        },
        # rows: truth
        "confusion": confusion_matrix(answers["class"], answers["predicted"], labels=list(CLASSES)).tolist(),
    }


def table_of(result: dict[str, Any]) -> str:
    """The result as Markdown."""

    def with_interval(value: float, interval: Sequence[float]) -> str:
        return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"

    lines = [f"| | accuracy | spread over the folds | {' | '.join(f'recall {label}' for label in CLASSES)} |"]
    lines.append("|---" * (3 + len(CLASSES)) + "|")
    for model, found in result["models"].items():
        recalls = [with_interval(**found["recall"][label]) for label in CLASSES]
        accuracy = with_interval(found["accuracy"], found["interval"])
        lines.append(f"| {model} | {accuracy} | {found['spread']:.3f} | {' | '.join(recalls)} |")
    if result["comparisons"]:
        lines += ["", "| | right alone | difference in accuracy | McNemar's p |", "|---|---|---|---|"]
    for pair in result["comparisons"]:
        difference = with_interval(pair["difference"], pair["difference_interval"])
        lines.append(
            f"| {pair['first']}, {pair['second']} | {pair['only_first']}, {pair['only_second']} | {difference} "
            f"| {pair['p_value']:.2g} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="DUNE CVN maps with truth")
    parser.add_argument("--models", nargs="+", help="all of a run, if not given")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=REPOSITORY / "results" / "cvn_folds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cvn_folds.json")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = read_config(REPOSITORY / "config" / "config.yaml", REPOSITORY / "config" / "dune_cvn.yaml")
    models = arguments.models or list(config.models)
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
        **measure(Folds(arguments.file, arguments.work, config, threads=arguments.threads), models),
    }
    write_json(arguments.out, result)
    print(json.dumps(result, indent=1))
    print(table_of(result))


if __name__ == "__main__":
    main()
