"""Fetching a base model, from a server on this machine that speaks the hub's protocol."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nuvlm.errors import InputError
from nuvlm.storage import verify_manifest
from nuvlm.vlm.hub import TILE_EMBEDDINGS, fetch_base_model, keep_one_tile
from nuvlm.vlm.model import load_model, load_processor
from nuvlm.vlm.settings import HubSettings

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REFUSED = {
    "gated": (403, "GatedRepo", r"gated.*Accept its licence at https://huggingface.co/lab/gated.*hf auth login"),
    "missing": (404, "RepoNotFound", r"lab/missing.*vlm\.hub\.model"),
    "moved": (404, "RevisionNotFound", r"revision main.*vlm\.hub\.revision"),
}


@pytest.fixture
def hub(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub with one model, lab/tiny: the test's base with the published model's kind of chat template."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            model = self.path.removeprefix("/api/models/").strip("/").split("/")[1]
            if model in REFUSED:
                status, code, _ = REFUSED[model]
                return self._send(status, b"", {"X-Error-Code": code})
            if self.path.startswith("/api/models/"):
                names = sorted(path.name for path in base.iterdir() if path.name != "manifest.json")
                if "/tree/" in self.path:
                    sizes = [{"type": "file", "path": n, "oid": n, "size": (base / n).stat().st_size} for n in names]
                    return self._send(200, json.dumps(sizes).encode())
                answer = {"id": "lab/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
                return self._send(200, json.dumps(answer).encode())
            content = (base / self.path.rsplit("/", 1)[1]).read_bytes()
            tag = hashlib.sha256(content).hexdigest()
            return self._send(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

        def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield url
    server.shutdown()
    server.server_close()


def test_fetched_model_is_usable_offline_with_our_template(hub: str, chat_template: Path, tmp_path: Path) -> None:
    fetch_base_model(tmp_path / "base", HubSettings(model="lab/tiny", max_tiles=1), chat_template=chat_template)
    verify_manifest(tmp_path / "base")
    assert json.loads((tmp_path / "base" / "source.json").read_text())["commit"] == COMMIT
    assert load_processor(tmp_path / "base").chat_template == chat_template.read_text()
    load_model(tmp_path / "base", "nf4", bf16=False, device_map={"": "cpu"})


@pytest.mark.parametrize("model", list(REFUSED))
def test_refusals_say_what_to_do(hub: str, chat_template: Path, tmp_path: Path, model: str) -> None:
    with pytest.raises(InputError, match=REFUSED[model][2]):
        fetch_base_model(tmp_path / "base", HubSettings(model=f"lab/{model}"), chat_template=chat_template)
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "cache"])


def test_unreachable_hub_says_what_to_do(chat_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"cannot be reached.*machine with network access"):
        fetch_base_model(tmp_path / "base", HubSettings(model="lab/tiny"), chat_template=chat_template)


def test_one_tile_keeps_the_embeddings_of_the_first(tmp_path: Path) -> None:
    """Sliced weights must be those that the model of four tiles uses for an image of one tile."""
    from transformers import MllamaConfig, MllamaForConditionalGeneration
    from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

    vision = MllamaVisionConfig(
        hidden_size=64, attention_heads=2, num_hidden_layers=1, num_global_layers=1, intermediate_size=64,
        intermediate_layers_indices=[0], vision_output_dim=128, image_size=28, patch_size=14,
    )  # fmt: skip
    text = MllamaTextConfig(
        vocab_size=300, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, cross_attention_layers=[1], rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = MllamaForConditionalGeneration(MllamaConfig(vision_config=vision, text_config=text, image_token_index=300))
    model.save_pretrained(tmp_path)
    four = load_file(tmp_path / "model.safetensors")
    keep_one_tile(tmp_path)
    sliced = MllamaForConditionalGeneration.from_pretrained(tmp_path)
    assert sliced.config.vision_config.max_num_tiles == 1
    one = load_file(tmp_path / "model.safetensors")
    changed = [name for name in four if name.endswith(TILE_EMBEDDINGS)]
    assert len(changed) == 3
    for name, value in four.items():
        tiles = value.view(9, 4, -1)[:2, 0] if name in changed else value
        torch.testing.assert_close(one[name].view_as(tiles), tiles)
