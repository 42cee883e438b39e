"""What an event takes on disk at each stage, and in the memory of the jobs that hold all events.

    python benchmarks/storage.py results/demo/voxels/sim00000.h5 results/demo/events.parquet

Display and pixel-map stores are made from the shard's events by the stages themselves, at several sizes of pixels and
windows; what training holds of the pixel maps is the sparse form of `nuvlm.models.classifier.data`. Writes
results/storage.json beside this file: `make plan` is reckoned with these numbers.
"""

import json
import sys
import tempfile
from pathlib import Path

import pandas as pd

from nuvlm.detector.crop import crop_displays
from nuvlm.detector.displays import smear_and_downsample
from nuvlm.detector.geometry import Detector, Diffusion
from nuvlm.detector.voxels import open_shard
from nuvlm.models.classifier.data import StoredImages, read_sparse

CROP = {"centre": "charge", "transfer": "log", "white_mev": 200, "knee_mev": 1}
CASES = ((50, 112), (50, 512), (5, 512))  # pixel side (mm), window (pixels)


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def stores(shard: Path, pixel_mm: float, window: int) -> dict[str, float]:
    """Bytes an event of both stores, and of the sparse images."""
    with tempfile.TemporaryDirectory() as name:
        displays, maps = Path(name, "displays.zarr"), Path(name, "maps.zarr")
        smear_and_downsample(shard, displays, detector=Detector(), diffusion=Diffusion(), pixel_mm=pixel_mm)
        crop_displays(displays, maps, size=window, **CROP)
        with open_shard(shard, Detector()) as voxels:
            n = len(voxels.events)
            rows = pd.DataFrame({"shard": "one", "row": range(n), "event_id": voxels.events["event_id"]})
        memory = read_sparse(StoredImages({"one": maps}, rows)).nbytes
        return {
            "pixel_mm": pixel_mm,
            "size": window,
            "display_bytes": size(displays) / n,
            "pixel_map_bytes": size(maps) / n,
            "sparse_bytes": memory / n,
        }


def main() -> None:
    shard, table = Path(sys.argv[1]), Path(sys.argv[2])
    with open_shard(shard, Detector()) as voxels:
        events, total = len(voxels.events), int(voxels.events["n_voxels"].sum())
    listed = pd.read_parquet(table)
    results = {
        "events": events,
        "voxels_per_event": total / events,
        "voxel_bytes": shard.stat().st_size / events,
        "event_table_bytes": table.stat().st_size / len(listed),
        "event_table_memory_bytes": int(listed.memory_usage(deep=True).sum()) / len(listed),
        "stores": [stores(shard, *case) for case in CASES],
    }
    path = Path(__file__).parent / "results" / "storage.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
