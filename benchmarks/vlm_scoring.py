"""Teacher-forced scoring against constrained beam search, and the adapter merged against unmerged, in one run.

    python benchmarks/vlm_scoring.py [--run results/demo] [--limit N]

Classifies the test events of a finished run with both methods, with the adapter as it was trained and merged, at batch
sizes 1 and 8: do they agree on every event, and how long does each take (on a CPU in CPU time, on one core)? Prints
the result and writes results/vlm_scoring.json beside this file. Only the ratios apply to other machines.

Beam search computes images and prompt once for each of its three beams and then one step per token; scoring computes
them once, and skips what all events share or what is not used (nuvlm.models.vlm.mllama). The image processor and the
text are the same for both and are timed separately.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
import yaml

from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import read_blocks
from nuvlm.models.devices import choose_device, device_name
from nuvlm.models.predictions import at_temperature
from nuvlm.models.vlm.classify import background_of, is_grounded, load_finetuned
from nuvlm.models.vlm.dataset import to_pictures
from nuvlm.models.vlm.model import load_processor
from nuvlm.models.vlm.prompts import answer_tokens, load_prompts
from nuvlm.models.vlm.scoring import Encoder, Scorer, beam
from nuvlm.models.vlm.settings import Quantization

METHODS = ("score", "beam")


def clock() -> float:
    """Seconds of CPU time, which other programs hardly change; of the wall clock beside a GPU."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


@dataclass(frozen=True)
class Pass:
    """Scores of all events by one method, and the time it took."""

    joint: np.ndarray
    """(events, classes) log-probability of each answer."""
    first: np.ndarray
    """(events, classes) log-probability of each label's first token."""
    encode_seconds: float
    seconds: float
    """Time in the model, without encoding."""

    def differs(self, other: "Pass") -> dict[str, Any]:
        """Differences between two passes."""
        return {
            "other_class": int((self.joint.argmax(axis=1) != other.joint.argmax(axis=1)).sum()),
            "largest_difference_logp": float(np.abs(self.joint - other.joint).max()),
            "largest_difference_logp_first": float(np.abs(self.first - other.first).max()),
            "largest_difference_probability": float(
                np.abs(np.exp(at_temperature(self.joint, 1.0)) - np.exp(at_temperature(other.joint, 1.0))).max()
            ),
        }


def measure(
    base: Path,
    adapter: Path,
    events: pd.DataFrame,
    stores: Mapping[str, Path],
    prompts: Path,
    *,
    quantization: Quantization,
    bf16: bool,
    batches: Sequence[int] = (1, 8),
) -> dict[str, Any]:
    """Classify `events` with every method, adapter and batch size.

    Returns:
        `events`; `ms_per_event[adapter][batch]` of each method, and of the image processor, which both need;
        `beam_over_score[adapter][batch]`; `published_over_merged_score[batch]`, beams and the adapter as published over
        scoring and the adapter merged; `methods[adapter][batch]` and `merged[batch]`, how far the answers of both
        methods, and of both adapters, lie apart; `first_token`, what the published decision says.
    """
    background = background_of(adapter)
    texts, processor, device = load_prompts(prompts), load_processor(base), choose_device()
    answers = answer_tokens(processor.tokenizer, texts, separated=is_grounded(adapter))
    encode = Encoder(processor, texts, torch.bfloat16 if bf16 else torch.float32)
    passes: dict[tuple[str, int, str], Pass] = {}
    for adapted in ("unmerged", "merged"):
        merge = adapted == "merged"
        model = load_finetuned(base, adapter, quantization, bf16=bf16, device=device, merge=merge)
        methods = {"score": Scorer(model, answers), "beam": partial(beam, model, answers=answers)}
        for batch in batches:
            joint, first = np.zeros((2, len(METHODS), len(events), len(texts.labels)))
            seconds, encoding, warm = dict.fromkeys(METHODS, 0.0), 0.0, False
            for rows, images in read_blocks(stores, events, batch):
                start = clock()
                inputs = encode([to_pictures(views, background) for views in images])
                inputs = {name: value.to(device) for name, value in inputs.items()}
                encoding += clock() - start
                # Methods alternate batch by batch, so that other load slows both alike.
                for i, (name, method) in enumerate(methods.items()):
                    if not warm:
                        method(inputs)
                    start = clock()
                    joint[i, rows], first[i, rows], _ = method(inputs)
                    seconds[name] += clock() - start
                warm = True
            for i, name in enumerate(METHODS):
                passes[adapted, batch, name] = Pass(joint[i], first[i], encoding, seconds[name])
    adapters = ("unmerged", "merged")
    reference = passes["unmerged", batches[0], "score"]
    truth = events["class"].map({name: k for k, name in enumerate(texts.labels)}).to_numpy()
    return {
        "events": len(events),
        "ms_per_event": {
            adapted: {
                str(batch): {name: 1e3 * passes[adapted, batch, name].seconds / len(events) for name in METHODS}
                | {"image_processor": 1e3 * passes[adapted, batch, "score"].encode_seconds / len(events)}
                for batch in batches
            }
            for adapted in adapters
        },
        "beam_over_score": {
            adapted: {
                str(batch): passes[adapted, batch, "beam"].seconds / passes[adapted, batch, "score"].seconds
                for batch in batches
            }
            for adapted in adapters
        },
        "published_over_merged_score": {
            str(batch): passes["unmerged", batch, "beam"].seconds / passes["merged", batch, "score"].seconds
            for batch in batches
        },
        "methods": {
            adapted: {
                str(batch): passes[adapted, batch, "score"].differs(passes[adapted, batch, "beam"]) for batch in batches
            }
            for adapted in adapters
        },
        "merged": {
            str(batch): passes["merged", batch, "score"].differs(passes["unmerged", batch, "score"])
            for batch in batches
        },
        "batches": passes["unmerged", batches[-1], "score"].differs(reference),
        "first_token": {
            "accuracy": float((reference.first.argmax(axis=1) == truth).mean()),
            "accuracy_joint": float((reference.joint.argmax(axis=1) == truth).mean()),
            "other_class_than_joint": int((reference.first.argmax(axis=1) != reference.joint.argmax(axis=1)).sum()),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("results/demo"), help="folder of a finished run")
    parser.add_argument("--config", type=Path, default=Path("config/config.yaml"), help="the configuration it had")
    parser.add_argument("--limit", type=int, help="only so many test events")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "vlm_scoring.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1 if not torch.cuda.is_available() else torch.get_num_threads())
    vlm = yaml.safe_load(arguments.config.read_text())["vlm"]
    events = read_events(arguments.run / "events.parquet")
    events = events[(events["split"] == "test").fillna(False)].reset_index(drop=True).head(arguments.limit or 10**9)
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "device": device_name(choose_device()),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "quantization": vlm["finetune"]["quantization"],
        "bf16": vlm["finetune"]["bf16"],
    } | measure(
        arguments.run / "models" / "base",
        arguments.run / "models" / "vlm",
        events,
        {shard: arguments.run / "pixelmaps" / f"{shard}.zarr" for shard in events["shard"].unique()},
        Path(vlm["prompts"]),
        quantization=vlm["finetune"]["quantization"],
        bf16=vlm["finetune"]["bf16"],
    )
    text = json.dumps(result, indent=1)
    print(text)
    arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
