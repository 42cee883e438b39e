"""Hostile files: pickled code, names with shell or path characters, and decompression bombs."""

import io
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
import torch
from numcodecs import Zstd
from PIL import Image

from memory import MB, at_most
from nuvlm.base.errors import InputError
from nuvlm.base.files import SEAL, read_table, seal
from nuvlm.base.manifest import write_manifest
from nuvlm.base.stores import open_store
from nuvlm.detector.geometry import Detector
from nuvlm.detector.voxels import EVENT_DTYPE, MOST_VOXELS, open_shard
from nuvlm.models.vlm.callbacks import FINGERPRINT
from nuvlm.models.vlm.classify import load_finetuned
from nuvlm.models.vlm.model import load_model
from nuvlm.models.vlm.training import finetune
from nuvlm.sources.cvn import convert_cvn
from nuvlm.sources.png import convert_png
from nuvlm.sources.ready_maps import PixelMapWriter
from nuvlm.workflow.config import Config, parse_config
from nuvlm.workflow.shards import list_shards
from paths import REPOSITORY
from small_run import CPU, SmallRun, Tally

pytestmark = pytest.mark.faults


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.mark,)


@pytest.fixture
def evil(tmp_path: Path) -> bytes:
    """A ``.pt`` that makes the file `pwned`, as it does where nobody takes care."""
    content = io.BytesIO()
    torch.save({"fingerprint": "x", "state": Evil(tmp_path / "pwned")}, content)
    torch.load(io.BytesIO(content.getvalue()), weights_only=False)
    (tmp_path / "pwned").unlink()
    return content.getvalue()


def test_code_in_a_checkpoint_of_the_cnn_does_not_run(
    small_run: SmallRun, evil: bytes, tmp_path: Path, tally: Tally
) -> None:
    checkpoint = small_run.folder / "checkpoints" / "cnn.pt"
    checkpoint.parent.mkdir(exist_ok=True)
    for content, message in ((evil, "not written by NuVLM"), (evil + SEAL, "no readable checkpoint")):
        checkpoint.write_bytes(content)
        if content is not evil:
            seal(checkpoint)
        with pytest.raises(InputError, match=message):
            small_run.train_cnn(tmp_path / "cnn")
        assert not (tmp_path / "pwned").exists()
        tally.add("pickled code", "CNN checkpoint", "noticed")
    checkpoint.unlink()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.bin"])
def test_code_in_a_checkpoint_of_the_vlm_does_not_run(
    small_run: SmallRun, evil: bytes, tmp_path: Path, tally: Tally, name: str
) -> None:
    """Even in one whose manifest agrees."""
    job = small_run.job(tmp_path / "adapter").model_copy(update={"checkpoints": tmp_path / "checkpoints"})
    shutil.copytree(small_run.folder / "left" / "vlm", job.checkpoints)
    newest = max(job.checkpoints.glob("checkpoint-*"), key=lambda folder: int(folder.name.removeprefix("checkpoint-")))
    # Not the last step: then nothing of the optimizer would be read.
    shutil.rmtree(newest)
    (folder,) = job.checkpoints.glob("checkpoint-*")
    (folder / name).write_bytes(evil)
    if name.endswith(".bin"):
        (folder / "adapter_model.safetensors").unlink()
    fingerprint = (folder / FINGERPRINT).read_bytes()
    for file in (FINGERPRINT, "manifest.json"):
        (folder / file).unlink()
    write_manifest(folder)
    (folder / FINGERPRINT).write_bytes(fingerprint)
    with pytest.raises(InputError, match="holds more than tensors and plain values"):
        finetune(job)
    assert not (tmp_path / "pwned").exists()
    assert not job.out.exists()
    tally.add("pickled code", "VLM checkpoint", "noticed")


def test_code_in_a_model_does_not_run(small_run: SmallRun, evil: bytes, tmp_path: Path, tally: Tally) -> None:
    """The formats that are pickles are not read, even where there is nothing else."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder, source, weights, pickled in (
        (base, "base", "model.safetensors", "pytorch_model.bin"),
        (adapter, "vlm", "adapter_model.safetensors", "adapter_model.bin"),
    ):
        shutil.copytree(small_run.folder / source, folder)
        (folder / weights).unlink()
        (folder / pickled).write_bytes(evil)
        (folder / "manifest.json").unlink()
        write_manifest(folder)
    with pytest.raises(OSError, match="safetensors"):
        load_model(base, "none", bf16=False, device_map=None)
    with pytest.raises(Exception, match="Weights only load failed"):
        load_finetuned(small_run.folder / "base", adapter, "none", bf16=False, device=CPU, merge=False)
    assert not (tmp_path / "pwned").exists()
    tally.add("pickled code", "base model", "noticed")
    tally.add("pickled code", "adapter", "noticed")


def test_a_store_of_the_version_that_knows_pickles_is_not_opened(tmp_path: Path, tally: Tally) -> None:
    (tmp_path / ".zgroup").write_text('{"zarr_format": 2}')
    (tmp_path / ".zattrs").write_text('{"format": "nuvlm-pixelmaps"}')
    write_manifest(tmp_path)
    with pytest.raises(InputError, match="not a readable Zarr group"):
        open_store(tmp_path, "nuvlm-pixelmaps")
    tally.add("pickled code", "store", "noticed")


def test_nothing_here_unpickles_or_runs_what_it_reads() -> None:
    forbidden = re.compile(
        r"import pickle|pickle\.load|allow_pickle|weights_only=False|trust_remote_code=True|shell=True|\byaml\.load\("
        r"|\beval\(|\bexec\(|os\.system"
    )
    files = [*(REPOSITORY / "workflow").rglob("*.py"), *(REPOSITORY / "workflow").rglob("*.smk")]
    assert len(files) > 50
    allowed = re.compile(r"\.eval\(")  # of a torch module
    found = [f"{file}: {line}" for file in files for line in file.read_text().splitlines()
             if forbidden.search(allowed.sub("", line))]  # fmt: skip
    # Loads numbers, texts and containers only: test_cvn.py tries what else a pickle can hold.
    restricted = REPOSITORY / "workflow/src/nuvlm/sources/cvn_partition.py"
    # Numba's cache, whose machine code runs in any case: the package's folder is as trusted as its modules.
    kernels = REPOSITORY / "workflow/src/nuvlm/base/kernels.py"
    assert sorted({line.partition(": ")[0] for line in found}) == [str(kernels), str(restricted)]
    assert f"{restricted}: import pickle" in found
    assert not any("pickle.load" in line for line in found if line.startswith(str(restricted)))


@pytest.mark.parametrize(
    "name",
    ["a b.h5", "$(touch pwned).h5", "a;b.h5", "`a`.h5", "'a'.h5", "<b>.h5", "..h5", "a|b.h5", "a\nb.h5", "{a}.h5"],
)
def test_a_name_that_means_more_than_a_name_is_no_shard(tmp_path: Path, tally: Tally, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InputError, match="cannot name a shard"):
        list_shards(Config(input={"source": "voxels", "files": [str(tmp_path / name)]}))
    tally.add("hostile name", "input file", "noticed")


def test_a_path_through_an_archive_or_upwards_names_no_place_to_write_to(tmp_path: Path, tally: Tally) -> None:
    (tmp_path / "maps.zip").touch()
    (tmp_path / "x.h5").touch()
    for name in ("maps.zip/../../evil.h5", "maps.zip/evil.h5", "maps.zip!/evil.h5", "x.h5::/group"):
        with pytest.raises(InputError, match="matches no file"):
            list_shards(Config(input={"source": "voxels", "files": [str(tmp_path / name)]}))
        tally.add("hostile name", "input file", "noticed")
    upwards = f"{tmp_path}/../{tmp_path.name}/x.h5"
    assert list_shards(Config(input={"source": "voxels", "files": [upwards]})) == {"x": upwards}
    tally.add("hostile name", "input file", "harmless")


@pytest.mark.parametrize("run", ["../elsewhere", "/tmp/x", "a b", "$(touch pwned)", "<b>", "", ".hidden", "a/b", "a\n"])
def test_a_run_cannot_lie_elsewhere(tally: Tally, run: str) -> None:
    for key in ("run", "models_from"):
        with pytest.raises(InputError, match=f"{key}: "):
            parse_config({key: run})
        tally.add("hostile name", "run", "noticed")


def test_a_revision_cannot_lead_out_of_the_results(tally: Tally) -> None:
    config = Config(vlm={"base": "hub", "hub": {"model": "../../a", "revision": "../../../../b"}})
    folder = Path(config.vlm.base_folder)
    assert ".." not in folder.parts
    assert folder.parts[:2] == ("results", "hub")
    tally.add("hostile name", "hub model", "harmless")


def test_names_and_words_of_a_folder_stay_text(tmp_path: Path, tally: Tally) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    names = ["..", "$(touch pwned)", "<img src=x onerror=alert(1)>", "a; rm -rf b", "%2e%2e%2fc"]
    for name in names:
        for view in ("xz", "yz"):
            Image.fromarray(np.full((16, 16), 7, np.uint8)).save(folder / f"{name}_{view}.png")
        (folder / f"{name}_pid.txt").write_text("<script>alert(1)</script>")
    store, truth = tmp_path / "out" / "a.zarr", tmp_path / "out" / "a.parquet"
    convert_png(folder, PixelMapWriter(store=store, truth=truth))
    table = read_table(truth)
    assert sorted(table["name"]) == sorted(names)
    assert table["class"].isna().all(), "no class but ours, so nothing of it can reach a page"
    assert sorted(file.name for file in tmp_path.rglob("*") if file.parent in (tmp_path, tmp_path / "out")) == [
        "a.parquet", "a.zarr", "maps", "out",
    ]  # fmt: skip
    tally.add("hostile name", "pixel maps", "harmless")


def huge_shard(path: Path, n_voxels: int, good: int = 0) -> Path:
    """A few kB that claim `n_voxels` voxels of zeros in their last event, after `good` small ones."""
    chunk = min(2**20, good + n_voxels)
    with h5py.File(path, "w", libver="latest") as file:
        detector = Detector()
        file.attrs.update(format="nuvlm-voxels", version=1, voxel_mm=detector.voxel_mm, origin_mm=detector.origin_mm)
        file.attrs["shape"] = detector.shape
        total = good + n_voxels
        for name, kind in {"x": "u2", "y": "u2", "z": "u2", "energy": "f4"}.items():
            column = file.create_dataset(f"voxels/{name}", (total,), kind, chunks=(chunk,), **hdf5plugin.Zstd())
            zeros = Zstd(level=19).encode(np.ones(chunk, kind))
            for begin in range(0, total, chunk):
                column.id.write_direct_chunk((begin,), zeros)
        events = np.zeros(good + 1, EVENT_DTYPE)
        events["event_id"] = np.arange(good + 1)
        events["n_voxels"] = [*[1] * good, n_voxels]
        events["first_voxel"] = np.arange(good + 1)
        file["events"] = events
    return path


def test_an_event_of_a_billion_voxels_is_refused_or_skipped_unread(tmp_path: Path, tally: Tally) -> None:
    path = huge_shard(tmp_path / "a.h5", 10**9, good=3)
    assert path.stat().st_size < 2 * MB
    message = f"event 3 has 1000000000 voxels; the maximum is {MOST_VOXELS}"
    with at_most(200 * MB):
        with pytest.raises(InputError, match=message), open_shard(path, Detector()):
            pass
        with open_shard(path, Detector(), on_bad_event="skip") as shard:
            assert [rows.tolist() for rows, _, _ in shard.blocks()] == [[0, 1, 2]]
    tally.add("bomb", "voxel shard", "noticed")


def rewritten(path: Path, change: Callable[[h5py.File], object]) -> Path:
    huge_shard(path, 1000)
    with h5py.File(path, "r+", libver="latest") as file:
        change(file)
    return path


def _replace(name: str, *arguments: object, **options: object) -> Callable[[h5py.File], object]:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, *arguments, **options)

    return change


def _virtual(file: h5py.File) -> None:
    del file["voxels/energy"]
    layout = h5py.VirtualLayout((1000,), "f4")
    layout[:] = h5py.VirtualSource("not_there.h5", "energy", (1000,))
    file.create_virtual_dataset("voxels/energy", layout)


BOMBS = {
    "a chunk of 4 GB": (
        _replace("voxels/energy", (1000,), "f4", chunks=(2**29,), maxshape=(None,)), "chunks of /voxels/energy unpack"
    ),
    "a row of 1 GB": (_replace("events", (1,), np.dtype([("a", "u1", 2**30)])), "rows of /events unpack"),
    "a table of 5 GB": (
        _replace("events", (10**8,), EVENT_DTYPE, chunks=(1000,)), "all its rows of /events unpack"
    ),
    "never written": (_replace("voxels/energy", (1000,), "f4", chunks=(100,)), "is incomplete"),
    "in another file": (
        _replace("voxels/energy", (1000,), "f4", external=[("/etc/passwd", 0, 4000)]), "is stored in other files"
    ),
    "virtual": (_virtual, "is stored in other files"),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_hdf5_that_unpacks_to_more_than_can_be_meant_or_is_not_all_there_is_refused(
    tmp_path: Path, tally: Tally, bomb: str
) -> None:
    change, message = BOMBS[bomb]
    path = rewritten(tmp_path / "a.h5", change)
    with at_most(200 * MB), pytest.raises(InputError, match=message) as error, open_shard(path, Detector()):
        pass
    assert str(path) in str(error.value)
    tally.add("bomb", "voxel shard", "noticed")


def test_a_zlib_map_that_unpacks_to_a_gigabyte_is_refused(tmp_path: Path, tally: Tally) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    packer = zlib.compressobj(9)
    zeros = bytes(MB)
    (folder / "1.gz").write_bytes(b"".join(packer.compress(zeros) for _ in range(1024)) + packer.flush())
    assert (folder / "1.gz").stat().st_size < 2 * MB
    with at_most(400 * MB), pytest.raises(InputError, match="event 1 has a map that is truncated, or larger than"):
        convert_cvn(folder, PixelMapWriter(store=tmp_path / "a.zarr", truth=tmp_path / "a.parquet"))
    tally.add("bomb", "zlib map", "noticed")


def test_cvn_images_of_a_side_that_cannot_be_meant_are_refused(tmp_path: Path, tally: Tally) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("images", (10, 3, 10**5, 10**5), "u1", chunks=(1, 1, 1000, 1000), compression="gzip")
    with at_most(200 * MB), pytest.raises(InputError, match="a side of at most 4096 pixels"):
        convert_cvn(path, PixelMapWriter(store=tmp_path / "a.zarr", truth=tmp_path / "a.parquet"))
    tally.add("bomb", "CVN images", "noticed")
