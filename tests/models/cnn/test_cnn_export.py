"""The CNN as ONNX: the same logits as torch, whatever the size and the width; bound to the weights it was made from."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from nuvlm.base.errors import InputError
from nuvlm.models.classifier.network import to_float
from nuvlm.models.cnn import export
from nuvlm.models.cnn.classify import classify_cnn
from nuvlm.models.cnn.export import export_cnn, largest_difference, write_onnx
from nuvlm.models.cnn.network import NETWORKS, load_cnn
from nuvlm.models.cnn.runtime import open_session
from nuvlm.models.cnn.siamese import SiameseCnn
from nuvlm.models.predictions import read_costs, read_predictions
from tiny_cnn import train

pytestmark = pytest.mark.slow


def lively(name: str, views: int, width: float) -> SiameseCnn:
    """A network whose logits hang on its input: one fresh from its initialisation gives nearly constants."""
    torch.manual_seed(2)
    network = NETWORKS[name](views=views, width=width, dropout=0).train()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0  # means and variances are those of the last images seen
    with torch.inference_mode():
        network(torch.rand(8, views, 64, 64) * (torch.rand(8, views, 64, 64) < 0.2))
        # To logits as trained networks have them.
        network.classify[-1].weight *= {"published": 1.0, "mobilenet": 0.05}[name]
    return network.eval()


@pytest.mark.parametrize(
    ("name", "views", "width"),
    [
        ("mobilenet", 3, 0.25),
        pytest.param("published", 3, 0.25, marks=pytest.mark.long),
        *(pytest.param(name, 2, 1.0, marks=pytest.mark.long) for name in NETWORKS),
    ],
)
def test_onnxruntime_and_torch_agree_at_every_size_and_batch(tmp_path, name, views, width):
    network = lively(name, views, width)
    write_onnx(network, tmp_path / "model.onnx", views, {})
    assert_agree(network, tmp_path / "model.onnx", views)


def test_they_agree_on_a_trained_network(exported_cnn):
    """The published one."""
    assert_agree(load_cnn(exported_cnn / "cnn", torch.device("cpu")), exported_cnn / "cnn_onnx/model.onnx", 2)


def assert_agree(network, path, views):
    session = open_session(path, threads=1)
    rng = np.random.default_rng(0)
    seen = []
    for events, size in ((1, 32), (1, 112), (5, 75), (2, 256)):
        images = (rng.integers(0, 256, (events, views, size, size)) * (rng.random(size) < 0.3)).astype(np.uint8)
        with torch.inference_mode():
            expected = network(to_float(torch.from_numpy(images), torch.device("cpu"))).numpy()
        np.testing.assert_allclose(session(images), expected, rtol=0, atol=1e-4)
        seen.append(expected)
    assert np.concatenate(seen).std(axis=0).min() > 0.1, "logits that hardly change prove nothing"


@pytest.fixture
def own(exported_cnn, tmp_path):
    """A copy of it, to be changed."""
    return Path(shutil.copytree(exported_cnn, tmp_path / "own"))


def classify(folder, out, **changes):
    condition = changes.pop("condition", "nominal")
    keywords = {"part": 0, "batch_size": 1, "threads": 1} | changes
    classify_cnn(folder / "cnn", folder / "events.parquet", {"a": folder / "a.zarr"}, {condition: out}, **keywords)
    return read_predictions([out])


def test_both_backends_classify_alike_and_say_which_they_are(exported_cnn, tmp_path):
    columns = ["p_nue_cc", "p_numu_cc", "p_nc"]
    torch_, onnx_ = tmp_path / "torch.parquet", tmp_path / "onnx.parquet"
    for condition, batch in (("nominal", 1), ("half_resolution", 7)):
        one = classify(exported_cnn, torch_, condition=condition, batch_size=batch)
        other = classify(exported_cnn, onnx_, condition=condition, batch_size=batch, export=exported_cnn / "cnn_onnx")
        np.testing.assert_allclose(one[columns], other[columns], atol=1e-5)
    assert [cost.device == "CPU (ONNX Runtime)" for cost in read_costs([torch_, onnx_])] == [False, True]


def test_the_file_says_what_it_takes_and_gives(exported_cnn):
    model = onnx.load(exported_cnn / "cnn_onnx/model.onnx")
    (image,), (logits,) = model.graph.input, model.graph.output
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    sides = [side.dim_value or None for side in image.type.tensor_type.shape.dim]
    assert sides == [None, 2, None, None]
    assert logits.type.tensor_type.shape.dim[1].dim_value == 3
    metadata = {item.key: item.value for item in model.metadata_props}
    assert json.loads(metadata["classes"]) == ["nue_cc", "numu_cc", "nc"]
    assert json.loads(metadata["images"])["pixel_mm"] == 50
    assert "nuvlm/models" not in str(model), "nothing of the machine it was made on"


def test_a_difference_is_seen_and_such_an_export_is_not_written(own, monkeypatch):
    network, path = load_cnn(own / "cnn", torch.device("cpu")), own / "cnn_onnx/model.onnx"
    assert largest_difference(network, path, 2, 64) < 1e-4
    with torch.inference_mode():
        network.classify[-1].bias += 0.01
    assert largest_difference(network, path, 2, 64) == pytest.approx(0.01, rel=0.05)
    # An exporter that writes the network of a moment ago.
    monkeypatch.setattr(export, "load_cnn", lambda *_: network)
    monkeypatch.setattr(export, "write_onnx", lambda network, target, *_: shutil.copy(path, target))
    with pytest.raises(RuntimeError, match=r"differ by 0\.01"):
        export_cnn(own / "cnn", own / "other")
    assert not (own / "other").exists()


def test_a_file_of_other_weights_or_altered_is_refused(own):
    train(own, learning_rate=1e-3)
    with pytest.raises(InputError, match=r"model\.onnx: was not exported from .*rerun export_cnn"):
        classify(own, own / "x.parquet", export=own / "cnn_onnx")
    content = bytearray((own / "cnn_onnx/model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (own / "cnn_onnx/model.onnx").write_bytes(content)
    with pytest.raises(InputError, match="have changed"):
        classify(own, own / "x.parquet", export=own / "cnn_onnx")
