"""CARE: every augmentation acts on embeddings as one rotation, whatever the image."""

from collections.abc import Mapping

from torch import Tensor

from ssl_inv.catalogue import SettingError, require_above, require_at_least, require_widths, suggest
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import projector as make_projector
from ssl_inv.objectives.base import Losses, PairLoss, PairObjective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import Crops, MultiCrop, Views


class CARE(PairObjective):
    """Contrastive learning with augmentations that act orthogonally (Gupta, Robinson, Lim, Villar, Jegelka, ICLR 2024).

    All images of a chunk share two augmentations, one for view x and one for view y. If each augmentation acts on
    embeddings as one orthogonal matrix, the angles between the chunk's images are the same in their views x as in their
    views y. With normalised embeddings z,

        L = NT-Xent(z^x, z^y; temperature)
            + equivariance (2 / B) sum_{i != j of one chunk} (z^x_i . z^x_j - z^y_i . z^y_j)^2.

    The objective compares samples: it does not read what the augmentations were, and predicts nothing. Both terms use
    the same two views of an image. The authors' code has two further views for the first term, augmented apart from the
    chunk, so a step costs four views; there a negative of the first term never shares its crop and colours with the
    image.

    When:
        Augmentations are not recorded, or cannot be written as a vector, but can be applied alike to several images:
        the loss compares images and needs no parameters. Its structure is the strictest of the family, one orthogonal
        matrix for each augmentation. Not where an action must be predicted from its parameters. Not with small chunks,
        which have few pairs.

    Args:
        projector: widths of the projector's layers.
        temperature: divides the cosine similarities.
        equivariance: weight of the second term; the paper has 0.01 for STL-10, 0.03 for CIFAR-10, 0.001 for CIFAR-100
            and 0.005 for ImageNet-100.
        chunk: recorded parameter that is equal within a chunk; the operation `shared` records
            `chunk`.
    """

    least_batch = 2

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        projector: list[int] = [2048, 128],
        temperature: float = 0.5,
        equivariance: float = 0.01,
        chunk: str = "chunk",
    ) -> None:
        super().__init__()
        require_at_least(0, equivariance=equivariance)
        require_widths(projector=projector)
        require_above(0, temperature=temperature)
        if chunk not in groups:
            hint = "the operation 'shared' does" if chunk == "chunk" else suggest(chunk, groups)
            raise SettingError("chunk", f"no view of this data records {chunk!r}; {hint}")
        self.chunk, self.temperature, self.equivariance = chunk, temperature, equivariance
        self.projector = make_projector(features, projector)

    @property
    def plan(self) -> MultiCrop:
        # Always two views of one image: views of an object that the data holds differ by more than the augmentation.
        return MultiCrop((Crops(2),))

    def pair(self, views: Views, backbone: Backbone) -> PairLoss:
        x, y = (self.embed(view.pixels, backbone) for view in views.views)
        chunk = views[0].transform[self.chunk]
        return PairLoss(self.embedding_loss(x.embeddings, y.embeddings, chunk), x, y)

    def embedding_loss(self, x: Tensor, y: Tensor, chunk: Tensor) -> Losses:
        """The terms of the loss from the embeddings `(B, D)` of both views and each sample's chunk number, `(B,)`."""
        return {
            "nt_xent": Term(losses.nt_xent(x, y, self.temperature)),
            "equivariance": Term(losses.gram_difference(x, y, chunk), self.equivariance),
        }
