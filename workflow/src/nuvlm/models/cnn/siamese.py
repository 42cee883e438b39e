"""What the Siamese CNNs share: a branch with the same weights for each view, then a common trunk."""

from typing import Any

from torch import Tensor, nn

from nuvlm.models.classifier.network import ImageClassifier
from nuvlm.models.cnn.settings import NetworkName


class Layers(nn.Sequential):
    """Consecutive layers that are one row of a table of layers, with the description `words`."""

    def __init__(self, words: str, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.words = words


class SiameseCnn(ImageClassifier):
    """Classifies all views of an event together.

    Args:
        views: images per event.
        stem, branch: applied to each view; children of `branch` are rows of the table of layers.
        trunk: applied to the concatenated channels of all views.
        head: applied to the result, before the mean over all pixels.
        classify: from these means to the logits.
        name: of the network in a recipe.
        white: value of a white pixel at the stem.
    """

    def __init__(
        self,
        views: int,
        stem: nn.Module,
        branch: nn.Sequential,
        trunk: nn.Sequential,
        head: nn.Module,
        classify: nn.Sequential,
        name: NetworkName,
        white: float = 1.0,
    ) -> None:
        super().__init__()
        self.name = name
        self.views, self.white = views, white
        self.stem, self.branch, self.trunk, self.head, self.classify = stem, branch, trunk, head, classify

    def card(self) -> dict[str, Any]:
        """See :meth:`ImageClassifier.card`."""
        return {"network": self.name}

    def features(self, images: Tensor) -> Tensor:
        """What is averaged over pixels, (events, channels, h, w), of images as in :meth:`forward`."""
        events, views, height, width = images.shape
        # (events, views, h, w) -> (events * views, 1, h, w): all views share the branch
        x = self.branch(self.stem(self.white * images.reshape(events * views, 1, height, width)))
        # (events * views, c, h', w') -> (events, views * c, h', w')
        features: Tensor = self.head(self.trunk(x.reshape(events, views * x.shape[1], *x.shape[2:])))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits (events, classes) of images (events, views, height, width), float, 0 to 1."""
        x = self.features(images).mean(dim=(2, 3))
        if self.training:
            # With only black maps the batch variance is zero and gradients would overflow: block them.
            x = x * images.any()
        logits: Tensor = self.classify(x)
        return logits


def round_channels(channels: float, multiple: int) -> int:
    """Round to a multiple (efficient on hardware), and at least to one of it."""
    return max(multiple, int(channels + multiple / 2) // multiple * multiple)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias, padded by half its kernel, and batch normalisation."""
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
