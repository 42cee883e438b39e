"""One trained and exported CNN for all tests that read it: the export takes most of their time."""

from pathlib import Path

import pytest

from nuvlm.models.cnn.export import export_cnn
from tiny_cnn import train, write_data


@pytest.fixture(scope="session")
def exported_cnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pixel maps, the network ``cnn`` and its export ``cnn_onnx``; not to be changed."""
    folder = write_data(tmp_path_factory.mktemp("exported"))
    train(folder)
    export_cnn(folder / "cnn", folder / "cnn_onnx")
    return folder
