"""A published base model, fetched from the Hugging Face hub once; the jobs that compute stay offline."""

import json
import logging
import shutil
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import safe_open
from safetensors.torch import save_file

from nuvlm.errors import InputError
from nuvlm.storage import atomic_path, write_json, write_manifest
from nuvlm.vlm.settings import HubSettings

logger = logging.getLogger(__name__)

NEEDED = ("*.json", "*.safetensors", "tokenizer*", "LICENSE*", "USE_POLICY*")
TILE_EMBEDDINGS = (
    "gated_positional_embedding.tile_embedding.weight",
    "pre_tile_positional_embedding.embedding.weight",
    "post_tile_positional_embedding.embedding.weight",
)
"""Tensors with a row for each aspect ratio, in which the embeddings of all tiles lie one after the other."""


def fetch_base_model(out: Path, settings: HubSettings, *, chat_template: Path) -> None:
    """Download the model to the folder `out`, with the project's chat template, ready for offline use.

    The published template takes no system message beside images and has no generation markers. Beside the model
    stands ``source.json`` with the commit that the revision was resolved to.

    Raises:
        InputError: the model is gated, does not exist or cannot be reached; the message says what to do.
    """
    with atomic_path(out) as partial:
        snapshot = _download(settings)
        for file in sorted(snapshot.rglob("*")):
            if file.is_file():
                target = partial / file.relative_to(snapshot)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        # The snapshot's folder is named after the commit.
        write_json(partial / "source.json", {"model": settings.model, "commit": snapshot.name, **settings.model_dump()})
        shutil.copyfile(chat_template, partial / "chat_template.jinja")
        # An older way to keep a template with a processor, which would win over the file.
        (partial / "chat_template.json").unlink(missing_ok=True)
        if settings.max_tiles == 1:
            keep_one_tile(partial)
        write_manifest(partial)
    logger.info("fetched %s at %s to %s", settings.model, snapshot.name, out)


def keep_one_tile(folder: Path) -> None:
    """Rewrite the model in `folder` to take one image tile, by slicing its tile embeddings in place.

    A 512 x 512 pixel map fits one tile of 560; the published model pads to four and computes on all four. The two
    are not equivalent (the padding takes part in the vision tower's attention): choose one for all stages.
    """
    config = json.loads((folder / "config.json").read_text())
    vision = config["vision_config"]
    hidden = vision["hidden_size"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names, metadata = list(file.keys()), file.metadata()
            if not any(name.endswith(TILE_EMBEDDINGS) for name in names):
                continue
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in names}
        for name in names:
            if name.endswith(TILE_EMBEDDINGS):
                width = hidden * (patches if "tile_embedding" in name else 1)
                # Row 0 stands for no image, row 1 for one tile; the first tile comes first in a row.
                tensors[name] = tensors[name][:2, :width].contiguous()
        save_file(tensors, path, metadata)
    vision |= {"max_num_tiles": 1, "supported_aspect_ratios": [[1, 1]]}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).exists():
            processor = json.loads((folder / name).read_text())
            processor.get("image_processor", processor)["max_image_tiles"] = 1
            (folder / name).write_text(json.dumps(processor, indent=2) + "\n")


def _download(settings: HubSettings) -> Path:
    name = f"{settings.model} (revision {settings.revision})"
    try:
        return Path(snapshot_download(settings.model, revision=settings.revision, allow_patterns=list(NEEDED)))
    except GatedRepoError as error:
        raise InputError(
            f"{name}: a gated model. Accept its licence at https://huggingface.co/{settings.model}, then log in with "
            "`hf auth login` or set HF_TOKEN, and rerun."
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{name}: no such revision. Set vlm.hub.revision to a branch, a tag or a commit.") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{name}: not on the hub, or private. Check vlm.hub.model; for a private one log in with `hf auth login`."
        ) from error
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"{name}: the hub cannot be reached, and the model is not in the local cache. Run fetch_base_model on a "
            "machine with network access (HF_HOME, HTTPS_PROXY and HF_ENDPOINT are honoured), then rerun."
        ) from error
    except HfHubHTTPError as error:
        raise InputError(f"{name}: the hub answered {error}. Try again later.") from error
