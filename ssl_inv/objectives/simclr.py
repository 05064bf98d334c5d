"""SimCLR: two views of one image attract, and all other images of the batch repel."""

from collections.abc import Mapping

from ssl_inv.catalogue import require_above, require_widths
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import projector as make_projector
from ssl_inv.objectives.base import PairLoss, PairObjective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import Pair, Views


class SimCLR(PairObjective):
    """Contrastive learning with the NT-Xent loss (Chen, Kornblith, Norouzi, Hinton, ICML 2020, eq. 1).

    With z the normalised projections of both views of all B images, 2B rows, and z_j the other view of row i,

        L = mean_i -log (exp(z_i . z_j / temperature) / sum_{k != i} exp(z_i . z_k / temperature)).

    When:
        The plainest contrastive baseline, and a quick first run on a folder of images: one term, one temperature, any
        pair of views. Not with small batches, since all negatives come from the batch. Not where many images of a batch
        show the same thing, since they are pushed apart. Not where features must tell how an image was seen, since they
        unlearn what the augmentation varies.

    Args:
        projector: widths of the projector's layers.
        temperature: divides the cosine similarities; 0.5 suits small images and short training, 0.1 long training.
    """

    least_batch = 2

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        projector: list[int] = [2048, 128],
        temperature: float = 0.5,
    ) -> None:
        super().__init__()
        require_widths(projector=projector)
        require_above(0, temperature=temperature)
        self.temperature = temperature
        self.projector = make_projector(features, projector)

    @property
    def plan(self) -> Pair:
        return Pair()

    def pair(self, views: Views, backbone: Backbone) -> PairLoss:
        x, y = (self.embed(view.pixels, backbone) for view in views.views)
        return PairLoss({"nt_xent": Term(losses.nt_xent(x.embeddings, y.embeddings, self.temperature))}, x, y)
