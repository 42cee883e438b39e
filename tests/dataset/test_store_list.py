"""The list of a run's pixel-map stores."""

from pathlib import Path

import pytest

from nuvlm.base.errors import InputError
from nuvlm.base.stores import write_store
from nuvlm.dataset.store_list import read_made_with, read_store_list, write_store_list


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    import numpy as np

    stores = {name: tmp_path / "pixelmaps" / f"{name}.zarr" for name in ("a", "b.c")}
    for number, store in enumerate(stores.values()):
        write_store(store, {"event_id": np.arange(3) + number}, {"format": "nuvlm-pixelmaps"})
    write_store_list(tmp_path / "pixelmaps.json", stores)
    return tmp_path


def test_it_names_every_store_from_any_working_directory(listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(listed.parent)
    assert read_store_list(Path(listed.name) / "pixelmaps.json") == {
        name: Path(listed.name) / "pixelmaps" / f"{name}.zarr" for name in ("a", "b.c")
    }


def test_a_store_that_was_made_again_differently_is_refused_by_name(listed: Path) -> None:
    manifest = listed / "pixelmaps/a.zarr/manifest.json"
    content = manifest.read_text()
    manifest.write_text(content)  # the same: no matter
    read_store_list(listed / "pixelmaps.json")
    manifest.write_text(content.replace("1", "2", 1))
    with pytest.raises(InputError, match=r"pixelmaps/a.zarr: not the pixel maps that .*pixelmaps.json lists"):
        read_store_list(listed / "pixelmaps.json")
    manifest.unlink()
    with pytest.raises(InputError, match=r"pixelmaps/a.zarr/manifest.json: missing"):
        read_store_list(listed / "pixelmaps.json")
    assert len(read_store_list(listed / "pixelmaps.json", verify=False)) == 2


def test_it_says_what_the_stores_were_made_with(listed: Path) -> None:
    path = listed / "pixelmaps.json"
    assert read_made_with(path) is None
    stores = read_store_list(path)
    write_store_list(path, stores, {"dataset.seed": 7, "events_from": None})
    assert read_made_with(path) == {"dataset.seed": 7, "events_from": None}
    assert read_store_list(path) == stores


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"stores": {"a": {}}}', '{"stores": 3}'])
def test_what_is_not_a_list_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "pixelmaps.json").write_text(content)
    with pytest.raises(InputError, match=r"pixelmaps.json: "):
        read_store_list(tmp_path / "pixelmaps.json")


def test_a_flipped_bit_is_noticed(listed: Path) -> None:
    path = listed / "pixelmaps.json"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="its bytes have changed"):
        read_store_list(path)
