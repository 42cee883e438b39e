"""Fetching a base model, from a server on this machine that speaks the hub's protocol."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from disk import full_disk
from nuvlm.base.errors import InputError
from nuvlm.base.files import sha256
from nuvlm.base.manifest import verify_manifest
from nuvlm.models.vlm.dataset import to_pictures
from nuvlm.models.vlm.hub import fetch_base_model
from nuvlm.models.vlm.model import load_model, load_processor
from nuvlm.models.vlm.prompts import load_prompts
from nuvlm.models.vlm.scoring import encode
from nuvlm.models.vlm.settings import FinetuneSettings, HubSettings
from nuvlm.models.vlm.training import Job, finetune
from paths import REPOSITORY
from tiny_models import make_mllama, make_tiny

pytestmark = pytest.mark.slow

CHAT_TEMPLATES = REPOSITORY / "resources" / "chat_templates"

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REFUSED = {
    "gated": (403, "GatedRepo", r"gated.*Accept its licence at https://huggingface.co/lab/gated.*hf auth login"),
    "missing": (404, "RepoNotFound", r"lab/missing.*vlm\.hub\.model"),
    "moved": (404, "RevisionNotFound", r"revision main.*vlm\.hub\.revision"),
}


@dataclass
class Hub:
    """What the server has, and how it fails."""

    folder: Path
    cut: str | None = None
    """A file of which only the first half ever arrives."""
    asked: list[str] = field(default_factory=list)
    """The files that were asked for."""


@pytest.fixture
def hub(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one model, lab/tiny: the test's base."""
    state = Hub(base)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            model = self.path.removeprefix("/api/models/").strip("/").split("/")[1]
            if model in REFUSED:
                status, code, _ = REFUSED[model]
                return self._send(status, b"", {"X-Error-Code": code})
            if self.path.startswith("/api/models/"):
                files = sorted(path for path in state.folder.iterdir() if path.name != "manifest.json")
                if "/tree/" in self.path:
                    tree = [{"type": "file", "path": f.name, "oid": f.name, "size": f.stat().st_size} for f in files]
                    return self._send(200, json.dumps(tree).encode())
                answer = {"id": "lab/tiny", "sha": COMMIT, "siblings": [{"rfilename": f.name} for f in files]}
                return self._send(200, json.dumps(answer).encode())
            name = self.path.rsplit("/", 1)[1]
            content = (state.folder / name).read_bytes()
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            if self.command == "GET":
                state.asked.append(name)
            stop = len(content) // 2 if name == state.cut and self.command == "GET" else None
            return self._send(206 if begin else 200, content[begin:], headers, stop and max(stop - begin, 0))

        def _send(
            self, status: int, content: bytes, headers: dict[str, str] | None = None, stop: int | None = None
        ) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content[:stop])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    use(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    yield state
    server.shutdown()
    server.server_close()


def use(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )


def fetch(tmp_path: Path, model: str = "lab/tiny", **settings: object) -> Path:
    values = HubSettings.model_validate({"model": model, "max_tiles": 1, **settings})
    fetch_base_model(tmp_path / "base", values, chat_templates=CHAT_TEMPLATES)
    return tmp_path / "base"


def nothing_written(tmp_path: Path) -> bool:
    return {path.name for path in tmp_path.iterdir()} <= {"cache"}


def test_fetched_model_is_usable_with_our_template(hub: Hub, tmp_path: Path) -> None:
    out = fetch(tmp_path)
    verify_manifest(out)
    assert load_processor(out).chat_template == (CHAT_TEMPLATES / "mllama.jinja").read_text()
    load_model(out, "nf4", bf16=False, device_map={"": "cpu"})


def test_a_branch_is_resolved_and_the_training_says_to_what(hub: Hub, tmp_path: Path, job: Job) -> None:
    out = fetch(tmp_path)
    source = json.loads((out / "source.json").read_text())
    assert source == {"model": "lab/tiny", "revision": "main", "max_tiles": 1, "family": "mllama", "commit": COMMIT}
    settings = FinetuneSettings.model_validate(job.settings.model_dump() | {"epochs": 1 / 6})
    finetune(job.model_copy(update={"base": out, "settings": settings}))
    assert json.loads((job.out / "training.json").read_text())["base_model"] == source


@pytest.mark.parametrize("model", list(REFUSED))
def test_refusals_say_what_to_do(hub: Hub, tmp_path: Path, model: str) -> None:
    with pytest.raises(InputError, match=REFUSED[model][2]):
        fetch(tmp_path, f"lab/{model}")
    assert nothing_written(tmp_path)


def test_what_is_no_name_on_the_hub_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"/scratch/llama.*owner/name"):
        fetch(tmp_path, "/scratch/llama")


def test_unreachable_hub_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use("http://127.0.0.1:9", monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"cannot be reached.*machine with network access"):
        fetch(tmp_path)
    assert nothing_written(tmp_path)


def test_cached_model_needs_no_network(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sha256(fetch(tmp_path) / "manifest.json")
    use("http://127.0.0.1:9", monkeypatch)
    assert sha256(fetch(tmp_path) / "manifest.json") == first


def test_interrupted_download_is_said_and_goes_on(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)  # between its attempts
    hub.cut = "model.safetensors"
    with pytest.raises(InputError, match=r"interrupted.*rerun: downloaded files are kept"):
        fetch(tmp_path)
    assert nothing_written(tmp_path)
    use("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(InputError, match=r"cannot be reached \(.*\), and the local cache lacks files of the model"):
        fetch(tmp_path)


def test_rerun_after_an_interruption_asks_for_the_missing_file_alone(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    hub.cut = "model.safetensors"
    with pytest.raises(InputError):
        fetch(tmp_path)
    hub.cut = None
    hub.asked.clear()
    verify_manifest(fetch(tmp_path))
    assert hub.asked == ["model.safetensors"]


def test_full_disk_names_the_cache(hub: Hub, tmp_path: Path) -> None:
    with full_disk(), pytest.raises(InputError, match=r"no space left in the hub's cache, .*cache.*HF_HOME"):
        fetch(tmp_path)
    assert nothing_written(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP])
def test_a_cache_that_cannot_lock_files_is_named(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """As on network file systems without a lock service."""

    def refuse(file: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InputError, match=r"file system of the hub's cache, .*cache, cannot lock files.*Set HF_HOME"):
        fetch(tmp_path)
    assert nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "bert"},
            r"lab/tiny \(revision main\): this model cannot be used\. family: 'bert' is no model.*such as Qwen",
        ),
        ({}, r"not the config of a model"),
    ],
)
def test_unusable_models_are_refused_before_the_weights(
    hub: Hub, tmp_path: Path, config: dict[str, object], message: str
) -> None:
    hub.folder = tmp_path / "hub"
    hub.folder.mkdir()
    (hub.folder / "config.json").write_text(json.dumps(config))
    (hub.folder / "model.safetensors").write_bytes(bytes(1000))
    with pytest.raises(InputError, match=message):
        fetch(tmp_path, max_tiles=4)
    assert "model.safetensors" not in hub.asked
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("mllama", r"made for 2 tiles, not 4.*max_tiles"),
        ("mistral3", r"lab/tiny \(revision main\): .*processor: .*PixtralProcessor requires the Torchvision"),
        ("idefics3", r"made for a varying number of tiles, not 4.*max_tiles to 1, or to null"),
        ("qwen3_vl", r"made for 1 tiles, not 4.*max_tiles to 1, or to null"),
    ],
)
def test_processor_and_tiles_are_checked_before_the_weights(
    hub: Hub, tmp_path: Path, base: Path, kind: str, message: str
) -> None:
    hub.folder = tmp_path / "hub"
    if kind == "mllama":
        make_mllama(hub.folder, base)
        config = json.loads((hub.folder / "config.json").read_text())
        config["vision_config"] |= {"max_num_tiles": 2, "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]]}
        (hub.folder / "config.json").write_text(json.dumps(config))
    else:
        make_tiny(kind, hub.folder)
    with pytest.raises(InputError, match=message):
        fetch(tmp_path, max_tiles=4)
    assert "model.safetensors" not in hub.asked


def test_model_without_safetensors_is_refused(hub: Hub, tmp_path: Path, base: Path) -> None:
    hub.folder = tmp_path / "hub"
    shutil.copytree(base, hub.folder)
    (hub.folder / "model.safetensors").rename(hub.folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"model\.safetensors missing"):
        fetch(tmp_path)


@pytest.mark.parametrize("max_tiles", [1, 4, None])
def test_tiles_are_those_asked_for(hub: Hub, tmp_path: Path, base: Path, max_tiles: int | None) -> None:
    hub.folder = tmp_path / "hub"
    make_mllama(hub.folder, base)
    out = fetch(tmp_path, max_tiles=max_tiles)
    processor = load_processor(out)
    model = load_model(out, "none", bf16=False, device_map={"": "cpu"})
    assert processor.image_processor.max_image_tiles == model.config.vision_config.max_num_tiles == (max_tiles or 4)
    same = sha256(out / "model.safetensors") == sha256(hub.folder / "model.safetensors")
    assert same == (max_tiles != 1)


@pytest.mark.parametrize("max_tiles", [1, None])
def test_another_family_is_fetched_with_its_own_template(
    hub: Hub, tmp_path: Path, prompts_file: Path, max_tiles: int | None
) -> None:
    """One tile: the whole picture, and no pieces of it."""
    hub.folder = tmp_path / "hub"
    make_tiny("idefics3", hub.folder)
    out = fetch(tmp_path, max_tiles=max_tiles)
    template = "chat_template.jinja"
    assert (out / template).read_text() == (hub.folder / template).read_text()
    picture = to_pictures(np.zeros((2, 56, 56), np.uint8), "black")
    inputs = encode(load_processor(out), load_prompts(prompts_file), [picture], torch.device("cpu"))
    assert inputs["pixel_values"].shape == ((1, 2, 3, 28, 28) if max_tiles else (1, 10, 3, 28, 28))


def test_jobs_that_compute_need_no_network(hub: Hub, tmp_path: Path, job: Job) -> None:
    """The scripts of the workflow, in a network namespace that has no way out, not even to this machine."""
    job = job.model_copy(update={"base": fetch(tmp_path)})
    settings = FinetuneSettings.model_validate(job.settings.model_dump() | {"epochs": 1 / 6})
    (tmp_path / "job.json").write_text(job.model_copy(update={"settings": settings}).model_dump_json())
    program = """
import socket, sys
from pathlib import Path
import nuvlm.models.vlm.jobs
from nuvlm.models.vlm.classify import classify_vlm
from nuvlm.models.vlm.settings import ClassifySettings
from nuvlm.models.vlm.training import Job, finetune
import huggingface_hub.constants
assert huggingface_hub.constants.HF_HUB_OFFLINE
job = Job.model_validate_json(Path(sys.argv[1]).read_text())
finetune(job)
classify_vlm(
    job.base, job.out, job.events, job.stores, {"nominal": Path(sys.argv[2])}, part=0, prompts=job.prompts,
    settings=ClassifySettings(gpus=0), quantization="nf4", bf16=False,
)
"""
    # Where a namespace cannot be made, a proxy that refuses stands for it.
    blocked = ["unshare", "-n"] if subprocess.run(["unshare", "-n", "true"], check=False).returncode == 0 else []
    environment = os.environ | {name: "http://127.0.0.1:9" for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [*blocked, sys.executable, "-c", program, tmp_path / "job.json", tmp_path / "p.parquet"]
    subprocess.run(command, env=environment, check=True)
    assert (tmp_path / "p.parquet").exists()
