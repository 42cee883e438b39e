"""A small run's products in the real formats, and the count of faults that were tried on them."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from nuvlm.base.files import read_json, verify
from nuvlm.base.stores import open_store
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.list_events import list_events
from nuvlm.dataset.pixelmaps import image_settings, read_blocks
from nuvlm.detector.crop import crop_displays
from nuvlm.detector.displays import smear_and_downsample
from nuvlm.detector.geometry import Detector, Diffusion
from nuvlm.detector.voxels import Event, open_shard, voxelize, write_shard
from nuvlm.evaluation.faithfulness import read_explanations
from nuvlm.evaluation.metrics import evaluate
from nuvlm.models.classifier.checkpoint import read_checkpoint
from nuvlm.models.cnn.classify import classify_cnn
from nuvlm.models.cnn.network import load_cnn
from nuvlm.models.cnn.saliency import run as explain_cnn
from nuvlm.models.cnn.settings import TrainSettings
from nuvlm.models.cnn.training import train_cnn
from nuvlm.models.jobs import ExplanationJob
from nuvlm.models.predictions import read_costs, read_predictions
from nuvlm.models.vlm.callbacks import FINGERPRINT
from nuvlm.models.vlm.classify import classify_vlm, load_finetuned
from nuvlm.models.vlm.explain import explain_vlm
from nuvlm.models.vlm.model import load_model, load_processor
from nuvlm.models.vlm.pretraining import build_base_model
from nuvlm.models.vlm.settings import ClassifySettings, ExplainSettings, FinetuneSettings, ScratchSettings
from nuvlm.models.vlm.training import Job, finetune, newest_checkpoint
from nuvlm.report.collect_events import collect_events
from nuvlm.report.figures import draw_figures
from paths import REPOSITORY

PROMPTS = REPOSITORY / "resources" / "prompts.yaml"
VOCABULARY = REPOSITORY / "resources" / "rationales.yaml"
CHAT_TEMPLATE = REPOSITORY / "resources" / "chat_templates" / "mllama.jinja"
SIZE = 56
SCRATCH = ScratchSettings(
    hidden=64, text_layers=2, vision_layers=1, heads=2, image_size=SIZE, vocabulary=768, steps=2, batch_size=4
)
FINETUNE = FinetuneSettings(
    processes=1, gpus=0, bf16=False, gradient_checkpointing=False, epochs=1, global_batch_size=12,
    device_batch_size=12, save_steps=1,
)  # fmt: skip
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Product:
    """What a stage leaves for another, and how that one reads it."""

    path: Path
    """A file, or the folder of several."""
    read: Callable[[], object]
    """Returns all that the reader takes from it, as something that can be compared."""

    def files(self) -> list[Path]:
        return sorted(p for p in self.path.rglob("*") if p.is_file()) if self.path.is_dir() else [self.path]


@dataclass(frozen=True)
class SmallRun:
    folder: Path
    products: dict[str, Product] = field(default_factory=dict)
    stores: dict[str, Path] = field(default_factory=dict)

    @property
    def events(self) -> Path:
        return self.folder / "events.parquet"

    def train_cnn(self, out: Path, **settings: object) -> None:
        recipe = {"max_epochs": 2, "batch_size": 8, "learning_rate": 1e-3} | settings
        train_cnn(
            self.events, self.stores, out, self.folder / "checkpoints" / "cnn.pt", self.folder / "tensorboard",
            settings=TrainSettings.model_validate({"width": 0.25, "recipe": recipe}), threads=1,
        )  # fmt: skip

    def job(self, out: Path, **settings: object) -> Job:
        return Job(
            base=self.folder / "base", events=self.events, stores=self.stores, out=out,
            checkpoints=self.folder / "checkpoints" / "vlm", tensorboard=self.folder / "tensorboard", prompts=PROMPTS,
            settings=FinetuneSettings.model_validate(FINETUNE.model_dump() | settings),
        )  # fmt: skip


def make_small_run(folder: Path) -> SmallRun:
    """Every product of a run, checkpoints included, each with what the next stage reads it with."""
    run, detector = SmallRun(folder), Detector()
    shards = {name: folder / "voxels" / f"{name}.h5" for name in "ab"}
    for first, (name, path) in enumerate(shards.items()):
        write_shard(path, detector, _events(range(30 * first, 30 * first + 30), detector))
        displays, run.stores[name] = (folder / kind / f"{name}.zarr" for kind in ("displays", "pixelmaps"))
        smear_and_downsample(path, displays, detector=detector, diffusion=Diffusion(), pixel_mm=50)
        crop_displays(displays, run.stores[name], size=SIZE, centre="vertex", transfer="log", white_mev=200, knee_mev=1)
    list_events(
        shards, run.stores, run.events, detector=detector, validation=0.2, test=0.3, seed=7, parts=1, train=True
    )
    build_base_model(
        folder / "base", SCRATCH, prompts=PROMPTS, vocabulary=VOCABULARY, chat_template=CHAT_TEMPLATE,
        tensorboard=folder / "tensorboard",
    )  # fmt: skip
    cnn, vlm = folder / "cnn", folder / "vlm"
    # Where a file is in the way of the model's folder, training ends with its checkpoint and no model.
    (folder / "blocked").touch()
    for train in (lambda out: run.train_cnn(out), lambda out: finetune(run.job(out))):
        with pytest.raises(OSError, match="blocked"):
            train(folder / "blocked" / "model")
    (folder / "checkpoints").rename(folder / "left")
    run.train_cnn(cnn)
    finetune(run.job(vlm))
    predictions = {model: {"nominal": [folder / "predictions" / f"{model}.parquet"]} for model in ("cnn", "vlm")}
    paths = {model: {"nominal": tables["nominal"][0]} for model, tables in predictions.items()}
    classify_cnn(cnn, run.events, run.stores, paths["cnn"], part=0, batch_size=8, threads=1)
    classify_vlm(
        folder / "base", vlm, run.events, run.stores, paths["vlm"], part=0, prompts=PROMPTS,
        settings=ClassifySettings(gpus=0), quantization="nf4", bf16=False,
    )  # fmt: skip
    rationales, looks = folder / "rationales.parquet", folder / "looks.zarr"
    explained = {model: parts["nominal"][0] for model, parts in predictions.items()}
    chosen = {"part": 0, "count": 4, "seed": 7}
    explain_vlm(
        folder / "base", vlm, run.events, run.stores, explained, rationales, condition="nominal", prompts=PROMPTS,
        vocabulary=VOCABULARY, settings=ExplainSettings(max_new_tokens=4), merge_adapter=False, quantization="nf4",
        bf16=False, **chosen,
    )  # fmt: skip
    explain_cnn(
        ExplanationJob(
            model="cnn", events=run.events, stores=run.stores, inputs={}, settings={}, threads=1, folder=cnn,
            out=looks, predictions=explained, condition="nominal", **chosen,
        )
    )  # fmt: skip
    scores, browser = folder / "scores.json", folder / "events.json"
    evaluate(run.events, predictions, scores, resamples=20)
    training = {"cnn": cnn / "training.json", "vlm": vlm / "training.json"}
    draw_figures(scores, training, folder / "figures")
    tables = {model: parts["nominal"] for model, parts in predictions.items()}
    stores = {name: folder / "displays" / f"{name}.zarr" for name in shards}
    collect_events(run.events, tables, stores, 2, browser, seed=7)
    figure = next((folder / "figures").glob("confusion*.svg"))
    fingerprint = read_checkpoint_fingerprint(folder / "left" / "cnn.pt")
    steps = read_json(next((folder / "left" / "vlm").glob(f"*/{FINGERPRINT}")))
    newest = newest_checkpoint(folder / "left" / "vlm", steps)
    assert newest is not None
    products = {
        "voxel shard": Product(shards["a"], lambda: _read_shard(shards["a"], detector)),
        "display store": Product(
            folder / "displays/a.zarr", lambda: _read_store(folder / "displays/a.zarr", "nuvlm-displays")
        ),
        "pixel-map store": Product(run.stores["a"], lambda: _read_maps(run)),
        "event table": Product(run.events, lambda: _table(read_events(run.events))),
        "CNN checkpoint": Product(
            folder / "left/cnn.pt", lambda: _flat(read_checkpoint(folder / "left/cnn.pt", fingerprint, CPU))
        ),
        "VLM checkpoint": Product(newest, lambda: _checkpoint(newest, steps)),
        "CNN weights": Product(cnn, lambda: _weights(load_cnn(cnn, CPU))),
        "base model": Product(folder / "base", lambda: _base(folder / "base")),
        "adapter": Product(vlm, lambda: _adapter(folder / "base", vlm)),
        "predictions": Product(
            predictions["vlm"]["nominal"][0], lambda: _table(read_predictions(predictions["vlm"]["nominal"]))
        ),
        "cost": Product(folder / "predictions/cnn.json", lambda: read_costs(predictions["cnn"]["nominal"])),
        "rationales": Product(rationales, lambda: _table(read_explanations([rationales]))),
        "maps of the CNN": Product(looks, lambda: _read_store(looks, "nuvlm-cam")),
        "scores": Product(scores, lambda: read_json(scores)),
        "events to browse": Product(browser, lambda: read_json(browser)),
        "figure": Product(figure, lambda: _figure(figure)),
    }
    run.products.update(products)
    return run


def _events(ids: range, detector: Detector) -> Iterator[Event]:
    """Random walks from a vertex, all classes in turn."""
    for i in ids:
        rng = np.random.default_rng(i)
        path = np.cumsum(rng.normal(0, 30, (201, 3)), axis=0) + np.array([0, 0, 3000])
        voxels, _ = voxelize(detector, path[:-1], path[1:], rng.gamma(2, 2, 200))
        pdg, current = (12, 14, 14)[i % 3], i % 3 < 2
        yield Event(i, voxels, nu_pdg=pdg, is_cc=current, nu_energy=1.0 + i, vertex_mm=(0.0, 0.0, 3000.0))


def read_checkpoint_fingerprint(path: Path) -> dict[str, Any]:
    return dict(torch.load(path, weights_only=True)["fingerprint"])


def _read_shard(path: Path, detector: Detector) -> object:
    with open_shard(path, detector) as shard:
        blocks = [(rows.tolist(), *map(np.ndarray.tobytes, (b.x, b.y, b.z, b.energy))) for rows, b, _ in shard.blocks()]
        return shard.events.tobytes(), blocks


def _read_store(path: Path, kind: str) -> object:
    store = open_store(path, kind)
    return dict(store.attrs), {name: array[:].tobytes() for name, array in store.arrays()}


def _read_maps(run: SmallRun) -> object:
    events = read_events(run.events)
    blocks = read_blocks(run.stores, events[events["shard"] == "a"])
    return image_settings(run.stores), [(rows.tolist(), images.tobytes()) for rows, images in blocks]


def _table(table: object) -> object:
    return {name: (str(column.dtype), column.astype("string").tolist()) for name, column in table.items()}  # type: ignore[attr-defined]


def _flat(value: object) -> object:
    """Tensors as bytes, however deep they are."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.shape, value.detach().cpu().numpy().tobytes()
    if isinstance(value, dict):
        return {key: _flat(item) for key, item in value.items()}
    return [_flat(item) for item in value] if isinstance(value, list | tuple) else value


def _weights(model: torch.nn.Module) -> object:
    return _flat(model.state_dict())


def _checkpoint(folder: Path, fingerprint: dict[str, object]) -> object:
    """What the trainer would go on from: every file of the checkpoint, or nothing."""
    newest = newest_checkpoint(folder.parent, fingerprint)  # type: ignore[arg-type]
    if newest != folder:
        return newest
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.name != FINGERPRINT}


def _base(folder: Path) -> object:
    processor = load_processor(folder)
    model: PreTrainedModel = load_model(folder, "none", bf16=False, device_map={"": "cpu"})
    return processor.tokenizer.get_vocab(), processor.chat_template, model.config.to_json_string(), _weights(model)


def _adapter(base: Path, adapter: Path) -> object:
    model = load_finetuned(base, adapter, "none", bf16=False, device=CPU, merge=False)
    return _weights(model), read_json(adapter / "training.json")


def _figure(path: Path) -> object:
    verify(path, "figure", require_seal=True)
    return path.read_text(encoding="utf-8").partition("<!--")[0]


class Tally:
    """Faults by kind, what they were tried on, and how each ended."""

    def __init__(self) -> None:
        self.ends: dict[str, Counter[str]] = defaultdict(Counter)
        self.products: dict[str, dict[str, None]] = defaultdict(dict)

    def add(self, fault: str, product: str, end: str) -> None:
        """`end` is ``noticed`` (an error names it, or the rerun is whole), ``harmless`` or ``lost``."""
        self.ends[fault][end] += 1
        self.products[fault][product] = None

    def lines(self) -> Iterator[str]:
        """A Markdown table."""
        yield "| fault | on | tried | noticed or made good | harmless | lost |"
        yield "|---|---|---|---|---|---|"
        for fault, ends in self.ends.items():
            products = list(self.products[fault])
            on = ", ".join(products) if len(products) <= 4 else f"{len(products)} kinds of files"
            yield self._line(fault, on, ends)
        yield self._line("all", "", sum(self.ends.values(), Counter()))

    def _line(self, fault: str, on: str, ends: Counter[str]) -> str:
        return f"| {fault} | {on} | {ends.total()} | {ends['noticed']} | {ends['harmless']} | {ends['lost']} |"
