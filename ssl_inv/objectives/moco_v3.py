"""MoCo v3: find the other view's key, made by a moving average of the network, among the keys of the batch."""

from collections.abc import Mapping

from torch import nn

from ssl_inv.catalogue import SettingError, require_above, require_between, require_widths
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import normalised_mlp
from ssl_inv.nn.teacher import Teacher, cosine_momentum
from ssl_inv.objectives.base import PairLoss, PairObjective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import Pair, Views


class MoCoV3(PairObjective):
    """Momentum contrast without a queue (Chen, Xie, He, ICCV 2021, eq. 1 and algorithm 1).

    With q the predictor's output for a view's projection, and k the teacher's projection of the other view,

        L = 2 T CE(cos(q^x, k^y of all samples) / T) + 2 T CE(cos(q^y, k^x of all samples) / T),

    where the correct class of each query is its own sample. Keys come from all processes and have no gradient. The
    teacher is a moving average of backbone and projector. The two views go through the networks one after the other, as
    in the paper.

    When:
        A contrastive baseline with a teacher, for ResNets and vision transformers, on large batches: keys of all
        processes are negatives, without a queue. Not with small batches, where a queue or an objective without
        negatives does better. Not where features must tell how an image was seen.

    Args:
        projector: widths of the projector's layers, all with normalisation, the last without scale and shift. The paper
            has two layers for a ResNet and three, `[4096, 4096, 256]`, for a vision transformer.
        predictor: widths of the predictor's hidden layers.
        predictor_norm: whether the predictor's last layer has normalisation too, as in the paper for vision
            transformers.
        temperature: T; the authors have 1 for a ResNet, 0.2 for a vision transformer.
        momentum: of the teacher in the first step; it rises to 1 along half a cosine.
        frozen_patch_projection: whether the patch projection of a vision transformer keeps its initial weights, the
            paper's remedy (sec. 4.2) for unstable training.
    """

    least_batch = 2

    has_teacher = True

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        projector: list[int] = [4096, 256],
        predictor: list[int] = [4096],
        predictor_norm: bool = False,
        temperature: float = 1.0,
        momentum: float = 0.99,
        frozen_patch_projection: bool = False,
    ) -> None:
        super().__init__()
        require_widths(projector=projector)
        require_above(0, temperature=temperature)
        require_between(0, 1, momentum=momentum)
        self.temperature, self.momentum, self.frozen_patch_projection = temperature, momentum, frozen_patch_projection
        self.projector = normalised_mlp(features, projector)
        self.prediction = normalised_mlp(projector[-1], [*predictor, projector[-1]], predictor_norm)

    @property
    def plan(self) -> Pair:
        return Pair()

    def adopt(self, backbone: Backbone) -> None:
        if self.frozen_patch_projection:
            patches = getattr(backbone.model, "patch_embed", None)
            if not isinstance(patches, nn.Module):
                problem = f"true, but {backbone.architecture} is no vision transformer"
                raise SettingError("frozen_patch_projection", problem)
            patches.requires_grad_(False)
        self.teacher = Teacher(self._encoder(backbone))

    def _encoder(self, backbone: Backbone) -> nn.Module:
        return nn.Sequential(backbone, self.projector)

    def pair(self, views: Views, backbone: Backbone) -> PairLoss:
        key_x, key_y = (self.embed_by_teacher(view.pixels) for view in views.views)
        x, y = (self.embed(view.pixels, backbone) for view in views.views)
        query_x, query_y = (self.prediction(one.embeddings) for one in (x, y))
        errors = [
            losses.info_nce(query, key.embeddings, self.temperature)
            for query, key in ((query_x, key_y), (query_y, key_x))
        ]
        return PairLoss({"info_nce": Term(errors[0] + errors[1], 2 * self.temperature)}, x, key_y, query_x)

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        self.teacher.follow(self._encoder(backbone), cosine_momentum(self.momentum, step, steps))
