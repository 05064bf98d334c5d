"""Feature maps of any network that has them."""

from torch import Tensor, nn

from ssl_inv.nn.backbones import Backbone, square_map


class Mapper(nn.Module):
    """From normalised pixels to the feature map `(B, C, h, w)` of a backbone; patch tokens are arranged as a square.

    Args:
        whole: the backbone.
    """

    def __init__(self, whole: Backbone) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, pixels: Tensor) -> Tensor:
        """The map."""
        return square_map(self.whole.encode(pixels).map)


def mapper_of(network: nn.Module) -> Mapper | None:
    """The network as one that gives feature maps; None if it is neither a backbone nor a model of timm."""
    if isinstance(network, Backbone):
        return Mapper(network)
    known = callable(getattr(network, "forward_features", None)) and isinstance(
        getattr(network, "num_features", None), int
    )
    return Mapper(Backbone(network, type(network).__name__)) if known else None
