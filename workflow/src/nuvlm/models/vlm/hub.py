"""Download a published base model from the Hugging Face hub once; all other jobs stay offline."""

import errno
import json
import logging
import shutil
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is that of its HTTP library
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from nuvlm.base.errors import InputError
from nuvlm.base.files import atomic_path, write_json
from nuvlm.base.manifest import write_manifest
from nuvlm.models.vlm.families import family_of
from nuvlm.models.vlm.processors import read_processor
from nuvlm.models.vlm.settings import HubSettings
from nuvlm.models.vlm.tiles import check_tiles, set_one_tile

logger = logging.getLogger(__name__)

CONFIG = "config.json"
SMALL = ("*.json", "*.jinja", "tokenizer*", "*.model", "merges.txt", "vocab*", "LICENSE*", "USE_POLICY*")
"""Everything but the weights."""
TEMPLATE = "chat_template.jinja"


def fetch_base_model(out: Path, settings: HubSettings, *, chat_templates: Path) -> None:
    """Download the model to the folder `out`, ready for offline use.

    ``source.json`` in the folder holds the commit of the revision. An interrupted download continues with the missing
    files.

    Args:
        chat_templates: folder of templates of the project, {model_type}.jinja, which replace published ones.

    Raises:
        InputError: the model is gated, does not exist, is of no use here, does not allow the number of tiles or cannot
            be reached, or the disk is full; the message gives the remedy. All but the last two are checked before the
            weights are downloaded.
    """
    name = f"{settings.model} (revision {settings.revision})"
    snapshot = _download(settings, settings.revision, SMALL)
    if not (snapshot / CONFIG).exists():
        raise InputError(f"{name}: no {CONFIG}, so not a model in the format of transformers. Check vlm.hub.model.")
    kind = family_of(snapshot, name).model_type
    read_processor(snapshot, name)
    check_tiles(name, snapshot, settings.max_tiles)
    commit = snapshot.name  # the hub's cache names snapshots by commit
    snapshot = _download(settings, commit, (*SMALL, "*.safetensors"))
    _check_weights(name, snapshot)
    with atomic_path(out) as partial:
        for file in sorted(snapshot.rglob("*")):
            if file.is_file():
                target = partial / file.relative_to(snapshot)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        write_json(partial / "source.json", {**settings.model_dump(), "family": kind, "commit": commit})
        use_template(partial, chat_templates / f"{kind}.jinja")
        if settings.max_tiles == 1:
            set_one_tile(partial)
        write_manifest(partial)
    logger.info("fetched %s, commit %s, to %s", name, commit, out)


def use_template(folder: Path, template: Path) -> None:
    """Put a template of the project, if there is one for the family, into the folder of a model."""
    if template.exists():
        shutil.copyfile(template, folder / TEMPLATE)
        # The older format, which would take precedence over the file.
        (folder / "chat_template.json").unlink(missing_ok=True)


def _check_weights(name: str, snapshot: Path) -> None:
    """Refuse a snapshot with missing weights: without a network the hub's cache returns an incomplete one."""
    index = snapshot / "model.safetensors.index.json"
    if index.exists():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    else:
        names = {"model.safetensors"}
    missing = sorted(file for file in names if not (snapshot / file).exists())
    if missing:
        raise InputError(
            f"{name}: {', '.join(missing)} missing in {snapshot}. If the model's page lists safetensors files, run "
            "fetch_base_model again where there is a network; else choose a revision with safetensors."
        )


def _download(settings: HubSettings, revision: str, files: tuple[str, ...]) -> Path:
    """Download these files of the model; returns the folder in the hub's cache."""
    name = f"{settings.model} (revision {settings.revision})"
    try:
        return Path(snapshot_download(settings.model, revision=revision, allow_patterns=list(files)))
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
    except HFValidationError as error:
        raise InputError(f"{name}: not a name on the hub. Set vlm.hub.model to owner/name.") from error
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"{name}: the hub cannot be reached ({error.__cause__ or error}), and the local cache lacks files of "
            f"the model, {constants.HF_HUB_CACHE}. Run fetch_base_model on a machine with network access (HF_HOME, "
            "HTTPS_PROXY and HF_ENDPOINT are honoured, HF_HUB_OFFLINE must not be set), then rerun."
        ) from error
    except HfHubHTTPError as error:
        raise InputError(f"{name}: the hub answered {error}. Try again later.") from error
    except (HTTPError, OSError, RuntimeError) as error:  # hf_xet, which moves large files, raises RuntimeError
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InputError(
                f"{name}: no space left in the hub's cache, {constants.HF_HUB_CACHE} ({error}). Free some or set "
                "HF_HOME to a folder on a larger disk, then rerun: downloaded files are kept."
            ) from error
        if isinstance(error, PermissionError):
            raise InputError(
                f"{name}: the hub's cache, {constants.HF_HUB_CACHE}, cannot be written ({error}). Set HF_HOME to a "
                "writable folder, then rerun."
            ) from error
        if isinstance(error, OSError) and error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise InputError(
                f"{name}: the file system of the hub's cache, {constants.HF_HUB_CACHE}, cannot lock files ({error}). "
                "Set HF_HOME to a folder on a disk that can, a local one for instance, then rerun."
            ) from error
        raise InputError(
            f"{name}: the download was interrupted ({error}). Check the network and any proxy (HTTPS_PROXY), then "
            "rerun: downloaded files are kept."
        ) from error
