"""The Siamese CNNs: their sizes and layers, and what they say of events."""

import re
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nuvlm.base.errors import InputError
from nuvlm.models.classifier.network import ImageClassifier, channels_last, count_parameters
from nuvlm.models.cnn.network import NETWORKS, describe, load_cnn
from paths import REPOSITORY
from tiny_cnn import classify, train, write_data

GROUPS = {
    32: (166_480, 3, False),
    48: (494_976, 4, False),
    64: (653_420, 3, True),
    96: (1_394_610, 3, True),
    160: (616_682, 1, True),
}
"""The trunk of the published network: output channels of a group -> parameters, blocks, squeeze-and-excitation."""


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path)


def test_the_published_network_has_the_parameters_of_the_public_code():
    network = NETWORKS["published"]()
    assert count_parameters(network) == 3_389_483
    assert count_parameters(network.stem) + count_parameters(network.branch) == 21_328
    assert count_parameters(network.classify) == 41_987
    assert count_parameters(network.head) == 0
    groups, blocks = defaultdict(int), defaultdict(int)
    for layer in network.trunk:
        if parameters := count_parameters(layer):
            channels = layer.layers[6].out_channels  # of the projection
            groups[channels] += parameters
            blocks[channels] += 1
    assert {channels: (groups[channels], blocks[channels]) for channels in groups} == {
        channels: (parameters, n) for channels, (parameters, n, _) in GROUPS.items()
    }


def restated(state, images):
    """The published network from the table of its layers, for weights in the order of the layers, in eval mode.

    Args:
        state: tensors of the network's state, in order.
        images: (events, 2, size, size), grey values 0 to 255.
    """
    tensors = iter(state)

    def convolved(x, **how):
        x = F.conv2d(x, next(tensors), **how)
        weight, bias, mean, variance, _ = (next(tensors) for _ in range(5))
        shape = (1, -1, 1, 1)
        x = (x - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt()
        return x * weight.view(shape) + bias.view(shape)

    def relu6(x):
        return x.clamp(0, 6)

    def hard_swish(x):
        return x * relu6(x + 3) / 6

    def linear(x):
        weight, bias = next(tensors), next(tensors)
        return x @ weight.T + bias

    def block(x, outputs, expansion, squeeze):
        inner = expansion * x.shape[1]
        y = relu6(convolved(x, padding=1))
        assert y.shape[1] == inner
        y = (hard_swish if squeeze else relu6)(convolved(y, padding=1, groups=inner))
        y = convolved(y)
        assert y.shape[1] == outputs
        if squeeze:
            inside = linear(y.mean(dim=(2, 3))).relu()
            assert inside.shape[1] == outputs // 16
            y = y * linear(inside).sigmoid()[:, :, None, None]
        return y + (x if x.shape[1] == outputs else convolved(x))

    # The branch once: its weights come once.
    views = torch.cat([images[:, :1], images[:, 1:]])
    views = relu6(convolved(views, stride=2, padding=2))
    views = F.avg_pool2d(block(views, 12, 2, squeeze=False), 2)
    x = torch.cat(views.chunk(2), dim=1)
    x = F.avg_pool2d(x, 2, padding=1)
    for channels, (_, blocks, squeeze) in GROUPS.items():
        for _ in range(blocks):
            x = block(x, channels, 6, squeeze)
        if channels in (32, 64):
            x = F.avg_pool2d(x, 2, padding=1)
    logits = linear(relu6(linear(x.mean(dim=(2, 3)))))
    assert next(tensors, None) is None
    return logits


def test_the_published_network_computes_what_its_layers_do():
    torch.manual_seed(3)
    network = NETWORKS["published"]().train()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0  # means and variances are those of the last images seen
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias)
    grey = torch.randint(0, 256, (3, 2, 70, 70)) * (torch.rand(3, 2, 70, 70) < 0.2)
    with torch.inference_mode():
        network(grey / 255)
        network.eval()
        expected = restated(network.state_dict().values(), grey.float())
        found = network(grey / 255)
        assert not torch.allclose(expected, network(grey.flip(1) / 255), rtol=1e-2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert expected.std(dim=0).min() > 0.01, "logits that hardly change prove nothing"


def test_the_other_network_has_the_published_size():
    assert count_parameters(NETWORKS["mobilenet"]()) == 3_398_651


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_table_of_layers_is_that_of_the_docs_and_adds_up(name):
    command = [sys.executable, "-m", "nuvlm.models.cnn.network", name]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert table in (REPOSITORY / "docs" / "cnn.md").read_text(), "put what the command prints into docs/cnn.md"
    *layers, total = (int(row.split("|")[4].replace(",", "") or 0) for row in table.replace(" ", "").splitlines()[2:])
    assert sum(layers) == total == count_parameters(NETWORKS[name]())


def test_the_table_gives_the_shapes_of_other_networks():
    table = describe(NETWORKS["mobilenet"](views=3, width=0.25), 75)
    # three times 24 channels; 75 pixels halved four times, each time rounded up
    assert "| concatenation | of 3 views | 72 x 5 x 5 |" in table
    assert "320 x 3 x 3" in table
    table = describe(NETWORKS["published"](views=3, width=0.25), 75)
    assert "| concatenation | of 3 views | 12 x 19 x 19 |" in table
    assert re.search(r"\| trunk 17 .* 40 x 4 x 4 \|", table)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_laid_out_as_torch_does_for_a_whole_network(name):
    """Strides of sides of one included: with others, depthwise layers take 1.7 times as long."""
    changed, expected = (NETWORKS[name](views=2, width=0.25, dropout=0) for _ in range(2))
    expected.to(memory_format=torch.channels_last)
    strides = [
        [parameter.stride() for parameter in network.parameters()] for network in (channels_last(changed), expected)
    ]
    assert strides[0] == strides[1]
    solid = ImageClassifier()
    solid.layer = torch.nn.Conv3d(1, 2, 3)
    assert channels_last(solid).layer.weight.shape == (2, 1, 3, 3, 3)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("views", "size"), [(1, 16), (2, 112), (3, 75), (2, 256)])
def test_any_number_of_views_and_image_size(name, views, size):
    network = NETWORKS[name](views=views, width=0.25).eval()
    assert network(torch.rand(2, views, size, size)).shape == (2, 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_views_share_their_branch_and_both_matter(name):
    torch.manual_seed(0)
    network = NETWORKS[name](width=0.25)
    images = torch.rand(4, 2, 64, 64)
    network(images).sum().backward()
    # the trunk's first layer takes the channels of the first view, then those of the second
    gradient = next(network.trunk.parameters()).grad
    assert gradient is not None
    for view in gradient.abs().sum(dim=(0, 2, 3)).chunk(2):
        assert (view > 0).any()
    one_view = count_parameters(NETWORKS[name](views=1, width=0.25))
    assert count_parameters(network) < 1.5 * one_view, "a branch for each view would double it"


@pytest.mark.slow
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
