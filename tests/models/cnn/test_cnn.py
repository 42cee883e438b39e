"""The Siamese CNN: its size and layers, and what it says of events."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from nuvlm.base.errors import InputError
from nuvlm.models.classifier.network import count_parameters
from nuvlm.models.cnn.network import SiameseCnn, describe, load_cnn
from paths import REPOSITORY
from tiny_cnn import classify, train, write_data


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path)


def test_full_width_has_the_published_number_of_parameters():
    assert count_parameters(SiameseCnn()) == pytest.approx(3.4e6, rel=0.02)


def test_the_table_of_layers_is_that_of_the_docs_and_adds_up():
    command = [sys.executable, "-m", "nuvlm.models.cnn.network"]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert table in (REPOSITORY / "docs" / "cnn.md").read_text(), "put what the command prints into docs/cnn.md"
    *layers, total = (int(row.split("|")[4].replace(",", "") or 0) for row in table.replace(" ", "").splitlines()[2:])
    assert sum(layers) == total == count_parameters(SiameseCnn())


def test_the_table_gives_the_shapes_of_other_networks():
    table = describe(SiameseCnn(views=3, width=0.25), 75)
    # three times 24 channels; 75 pixels halved four times, each time rounded up
    assert "| concatenation | of 3 views | 72 x 5 x 5 |" in table
    assert "320 x 3 x 3" in table


@pytest.mark.parametrize(("views", "size"), [(1, 32), (2, 112), (3, 75), (2, 256)])
def test_any_number_of_views_and_image_size(views, size):
    network = SiameseCnn(views=views, width=0.25).eval()
    assert network(torch.rand(2, views, size, size)).shape == (2, 3)


def test_views_share_their_branch_and_both_matter():
    torch.manual_seed(0)
    network = SiameseCnn(width=0.25)
    images = torch.rand(4, 2, 64, 64)
    network(images).sum().backward()
    # the trunk's first layer takes the channels of the first view, then those of the second
    gradient = next(network.trunk.parameters()).grad
    assert gradient is not None
    for view in gradient.abs().sum(dim=(0, 2, 3)).chunk(2):
        assert (view > 0).any()
    one_view = count_parameters(SiameseCnn(views=1, width=0.25))
    assert count_parameters(network) < 1.5 * one_view, "a branch for each view would double it"


def test_predictions_do_not_depend_on_the_batch_and_take_half_the_resolution(data):
    train(data)
    one, many = classify(data), classify(data, batch_size=5)
    columns = ["p_nue_cc", "p_numu_cc", "p_nc"]
    np.testing.assert_allclose(one[columns], many[columns], atol=1e-6)
    assert not np.allclose(one[columns], classify(data, condition="half_resolution")[columns])
    dead, blank = (classify(data, condition=condition)[columns] for condition in ("dead_100", "blank"))
    assert dead.equals(blank)
    assert not dead.equals(one[columns])


def test_a_part_without_events_gives_an_empty_table(data):
    train(data)
    assert len(classify(data, part=7)) == 0


def test_a_damaged_model_is_refused(data):
    train(data)
    weights = bytearray((data / "cnn/model.safetensors").read_bytes())
    weights[-100] ^= 1
    (data / "cnn/model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match="have changed"):
        load_cnn(data / "cnn", torch.device("cpu"))
