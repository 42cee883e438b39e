"""Rationales and saliency maps for a run of `run_on_disk`, in the real formats."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from nuvlm.base.stores import write_store
from nuvlm.evaluation.faithfulness import STATEMENTS
from paths import REPOSITORY
from run_on_disk import PIXEL_MM, Run

SIZE = 48
TYPES = {"charged": "Int16", "track": "boolean", "leaves": "boolean", "shower": "boolean", "gap": "boolean"}
NOTHING: dict[str, Any] = dict.fromkeys(STATEMENTS)


def claims(prefix: str, rows: list[Mapping[str, Any]]) -> pd.DataFrame:
    """Columns of claims; null if not stated."""
    return pd.DataFrame(
        {
            f"{prefix}_{name}": pd.array(
                [(NOTHING | dict(row))[name] for row in rows], dtype=TYPES.get(name, "Float32")
            )
            for name in STATEMENTS
        }
    )


def rationale_table(
    rows: list[tuple[int, str, Mapping[str, Any], Mapping[str, Any]]], predicted: str = "nue_cc"
) -> pd.DataFrame:
    """A table of rationales from (event, picture, claims, truth)."""
    table = pd.DataFrame({"event_id": np.array([row[0] for row in rows], dtype=np.uint64), "shard": "first"})
    table = table.assign(row=0, predicted=predicted, chosen="sample", picture=[row[1] for row in rows])
    table["class"], table["rationale"] = "nue_cc", "Words."
    return table.join(claims("claim", [row[2] for row in rows])).join(claims("true", [row[3] for row in rows]))


def topology(events: pd.DataFrame, seed: int = 3) -> pd.DataFrame:
    """The event table with a topology that matches the class: muons are long, electrons shower."""
    rng = np.random.default_rng(seed)
    n = len(events)
    name, known = events["class"].fillna("none").to_numpy(str), events["class"].notna().to_numpy()
    track = np.where(
        name == "numu_cc", rng.uniform(1000, 4000, n), np.where(rng.random(n) < 0.7, rng.uniform(100, 900, n), 0)
    )
    shower = np.where(
        name == "nue_cc", rng.uniform(300, 4000, n), np.where(rng.random(n) < 0.3, rng.uniform(50, 800, n), 0)
    )
    gap = np.where(name == "nue_cc", 0, rng.uniform(50, 400, n))
    leaves = np.where(track > 0, track > 2500, None)
    return events.assign(
        charged=pd.Series(rng.integers(1, 5, n), dtype="Int8").where(pd.Series(known)),
        track_mm=np.where(known, track, np.nan).astype(np.float32),
        track_leaves=pd.array(np.where(known, leaves, None), dtype="boolean"),
        shower_mev=np.where(known, shower, np.nan).astype(np.float32),
        shower_gap_mm=np.where(known & (shower > 0), gap, np.nan).astype(np.float32),
    )


def true_claims(event: Mapping[str, Any]) -> dict[str, Any]:
    """True statements of an event, unrounded."""
    if pd.isna(event["track_mm"]):
        return {}
    stated: dict[str, Any] = {
        "charged": event["charged"],
        "track": event["track_mm"] > 0,
        "shower": event["shower_mev"] > 0,
    }
    if stated["track"]:
        stated |= {"track_cm": event["track_mm"] / 10, "leaves": event["track_leaves"]}
    if stated["shower"]:
        stated["gap"] = event["shower_gap_mm"] > 0
        if stated["gap"]:
            stated["gap_cm"] = event["shower_gap_mm"] / 10
        stated["shower_mev"] = event["shower_mev"]
    return stated


def write_explanations(run: Run, folder: Path, seed: int = 4, rationale: str = "I see it.") -> dict[str, list[Path]]:
    """Give the events a topology, and write rationales of a VLM for all but training events.

    With the picture, three of four rationales are true, the others are those of another event; with a black picture
    all are the same.
    """
    rng = np.random.default_rng(seed)
    events = topology(pd.read_parquet(run.events))
    events.to_parquet(run.events, index=False)
    records = events.to_dict("records")
    paths = []
    for part, table in enumerate(run.predictions["vlm"]["nominal"]):
        rows, who = [], []
        for answer in pd.read_parquet(table).to_dict("records"):
            event = next(e for e in records if (e["shard"], e["event_id"]) == (answer["shard"], answer["event_id"]))
            truth = true_claims(event)
            stated = truth if rng.random() < 0.75 else true_claims(records[rng.integers(len(records))])
            pictures = {"nominal": stated, "text_only": {"track": True, "track_cm": 50, "shower": False, "charged": 2}}
            for picture, said in pictures.items():
                rows.append((int(answer["event_id"]), picture, said, truth))
                who.append({key: answer[key] for key in ("shard", "row", "class", "predicted")})
        chosen = rationale_table(rows).assign(rationale=rationale)
        chosen[["shard", "row", "class", "predicted"]] = pd.DataFrame(who).to_numpy()
        path = folder / "explanations" / "vlm" / f"{part}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        chosen.to_parquet(path, index=False)
        paths.append(path)
    return {"vlm": paths}


def write_saliency(run: Run, folder: Path, cnn: str = "cnn") -> tuple[list[Path], dict[str, Path]]:
    """Saliency maps of every event, a spot five pixels up and right of the vertex, and pixel-map stores."""
    events = pd.read_parquet(run.events)
    maps: dict[str, Path] = {}
    for shard, rows in events.groupby("shard"):
        vertex = rows[["vertex_x_mm", "vertex_y_mm", "vertex_z_mm"]].fillna(0).to_numpy()
        corner = (np.floor(vertex / PIXEL_MM) - SIZE // 2) * PIXEL_MM
        maps[str(shard)] = folder / "pixelmaps" / f"{shard}.zarr"
        attributes = {"format": "nuvlm-pixelmaps", "version": 1, "views": ["xz", "yz"], "size": SIZE}
        attributes |= {"pixel_mm": PIXEL_MM, "centre": "charge", "transfer": "log", "white_mev": 200, "knee_mev": 1}
        arrays = {"images": np.zeros((len(rows), 2, SIZE, SIZE), np.uint8), "corner_mm": corner}
        write_store(maps[str(shard)], arrays | {"event_id": rows["event_id"].to_numpy(np.uint64)}, attributes)
    saliency = np.zeros((len(events), 2, SIZE, SIZE), np.uint8)
    saliency[:, :, SIZE // 2 + 5, SIZE // 2 + 5] = 255
    path = folder / "explanations" / cnn / "0.zarr"
    attributes = {"format": "nuvlm-cam", "version": 1, "shard": events["shard"].tolist(), "blackened": 0.2}
    attributes |= {"fall": ["map", "random"], "chosen": ["sample", "mistake"] * (len(events) // 2)}
    fall = np.stack([np.linspace(0.2, 0.6, len(events)), np.linspace(0, 0.2, len(events))], axis=1).astype(np.float32)
    arrays = {"maps": saliency, "fall": fall, "event_id": events["event_id"].to_numpy(np.uint64)}
    write_store(path, arrays, attributes)
    return [path], maps


def benchmark_definition(path: Path, maps: Mapping[str, Any] | None = None, **changes: object) -> Path:
    """The definition of the benchmark of explanations, with changes of its events and maps."""
    content = yaml.safe_load((REPOSITORY / "resources" / "faithfulness" / "definition.yaml").read_text())
    content["events"] |= changes
    content["maps"] |= maps or {}
    path.write_text(yaml.safe_dump(content))
    return path
