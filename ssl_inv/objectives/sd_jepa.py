"""SD-JEPA: a world model with a cut embedding, for how far a sequence has come and for what it shows."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_inv.catalogue import require, require_above, require_at_least
from ssl_inv.memories.directions import RandomDirections
from ssl_inv.memories.progress import Progress
from ssl_inv.nn import bends, losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.distributed import gather
from ssl_inv.nn.dynamics import WorldModel
from ssl_inv.nn.sigreg import sigreg as sigreg_loss
from ssl_inv.objectives.base import ActionPrediction, Losses, Objective, Term, action_dimensions
from ssl_inv.objectives.sequences import embedded_sequence, one_step_prediction
from ssl_inv.transforms import Group, keyed_random
from ssl_inv.views import Views, ViewSequence


class SDJEPA(Progress, Objective):
    """State-dynamics JEPA ("SD-JEPA", 2026, arXiv 2605.31111), the published form A2, as the authors' code computes it.

    LeWM (`ssl_inv.objectives.lewm`) with embeddings e = [p; c] that are cut at a fixed place. The first numbers p, the
    progression, are ordered in time by a triplet of cosines. SIGReg holds the others, c, the content, to a normal
    distribution. The loss is the sum

        L = mean over t < T of (p(e_1 .. e_t, a_1 .. a_t) - e_{t+1})^2
            + sigreg_weight mean_t SIGReg(c_t)
            + triplet_weight mean max(0, cos(p_m, p_n) - cos(p_m, p_{m+1}) + margin)
            + straightening mean (1 - cos(e_{t+1} - e_t, e_{t+2} - e_{t+1})).

    The anchor m is the middle view, T // 2 counted from 0. The negative n is the anchor of another sample: anchors of
    the global batch are shifted by one random number. Views of a sample come in the order of the data, which must be
    that of time, or of a path such as a turntable. The last term is the authors' ablation, which did not help, and has
    the weight 0. Their prototypes and their predictor with polar coordinates of p, which did not help either, are left
    out. The features are judged, not e.

    When:
        Sequences with recorded actions, such as video, in which how far a process has come should be readable from a
        few numbers. Not for views in no order: the triplet then only tells objects apart. Not where classes count most.

    Args:
        parameters: of the actions between views.
        observed: views before the last one, the predictor's history.
        progression: numbers of an embedding that are its progression; the paper has 2, 4 and 8.
        sigreg_weight: of SIGReg; 0.09 in the authors' code, 0.1 in the paper.
        triplet_weight: of the triplet.
        margin: of the triplet.
        window: the positive is one of so many views after the anchor, drawn for each sample.
        straightening: weight of the term against bends.
        projector: widths of the projector's layers; predictions pass a second network with the same hidden widths.
        layers: of the predictor, a transformer.
        heads: of its attention.
        head_width: dimensions of a head.
        hidden: width of its MLPs.
        dropout: in the predictor.
        directions: number of random directions of SIGReg.
        seed: of negatives and positives, with the step.
    """

    least_batch = 2

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        parameters: list[str] = ["rotation"],
        observed: int = 3,
        progression: int = 2,
        sigreg_weight: float = 0.09,
        triplet_weight: float = 0.1,
        margin: float = 0.2,
        window: int = 1,
        straightening: float = 0.0,
        projector: list[int] = [2048, 192],
        layers: int = 6,
        heads: int = 16,
        head_width: int = 64,
        hidden: int = 2048,
        dropout: float = 0.1,
        directions: int = 1024,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_above(0, sigreg_weight=sigreg_weight)
        require_at_least(0, triplet_weight=triplet_weight, margin=margin, straightening=straightening)
        require_at_least(2, observed=observed)
        self.anchor = (observed + 1) // 2
        after = observed - self.anchor
        problem = f"must lie between 1 and {after}, the views after the middle one of {observed + 1}, got {window}"
        require(1 <= window <= after, "window", problem)
        self._plan = ViewSequence(observed)
        action = action_dimensions(groups, parameters, "canonical")
        self.parameters_used = parameters
        self.world = WorldModel(
            features,
            action,
            observed,
            projector=projector,
            layers=layers,
            heads=heads,
            head_width=head_width,
            hidden=hidden,
            dropout=dropout,
        )
        width = projector[-1]
        problem = f"must be at least 1 and below {width}, the width of an embedding, got {progression}"
        require(1 <= progression < width, "progression", problem)
        self.progression, self.margin, self.window, self.seed = progression, margin, window, seed
        self.weights = (sigreg_weight, triplet_weight, straightening)
        self.directions = RandomDirections(directions)

    @property
    def plan(self) -> ViewSequence:
        return self._plan

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        embeddings, actions = embedded_sequence(views, backbone, self.world, self.parameters_used)
        predicted = self.world.predict(embeddings[:, :-1], actions)
        return self.embedding_loss(embeddings, predicted, self._positives(views.index))

    def embedding_loss(self, embeddings: Tensor, predicted: Tensor, positives: Tensor) -> Losses:
        """The terms of the loss.

        Args:
            embeddings: of the T views, `(B, T, D)`.
            predicted: embeddings of the views after the first, `(B, T - 1, D)`.
            positives: the number of each sample's positive view, `(B,)`.
        """
        sigreg_weight, triplet_weight, straightening = self.weights
        progression, content = embeddings[..., : self.progression], embeddings[..., self.progression :]
        sigreg = sigreg_loss(content.transpose(0, 1), self.directions(content))
        positive = progression.take_along_dim(positives[:, None, None], dim=1)[:, 0]
        triplet = cosine_triplet(progression[:, self.anchor], positive, self._shift(), self.margin)
        terms = {
            "prediction": Term(losses.token_error(predicted, embeddings[:, 1:], "squared")),
            "sigreg": Term(sigreg, sigreg_weight),
            "triplet": Term(triplet, triplet_weight),
        }
        if straightening:
            turns = [bends.bend(*embeddings[:, t : t + 3].unbind(1)) for t in range(embeddings.shape[1] - 2)]
            terms["straightening"] = Term(torch.stack(turns).mean(), straightening)
        return terms

    def _positives(self, index: Tensor) -> Tensor:
        """The number of each sample's positive view, `(B,)`."""
        if self.window == 1:
            return torch.full_like(index, self.anchor + 1)
        draw = keyed_random.uniform(self.seed, self.steps_done, index.cpu().numpy(), 1, count=1)[:, 0]
        after = torch.from_numpy(draw * self.window).long()
        return (self.anchor + 1 + after).to(index.device, non_blocking=True)

    def _shift(self) -> float:
        """How far anchors are shifted to be negatives, as a share of the possible shifts, from 0 to below 1."""
        return float(keyed_random.uniform(self.seed, self.steps_done, 0, count=1)[0, 0])

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        self.directions.advance(step)
        self.advance(step, steps)

    def predictor(self, backbone: Backbone) -> ActionPrediction:
        """The prediction from one view; embeddings are the projector's, progression and content."""
        return one_step_prediction(self.world, backbone, self.parameters_used)


def cosine_triplet(anchors: Tensor, positives: Tensor, shift: float, margin: float) -> Tensor:
    """Mean of max(0, cos(anchor, negative) - cos(anchor, positive) + margin); negatives are other samples' anchors.

    Args:
        anchors: `(B, D)`.
        positives: `(B, D)`.
        shift: which other sample of the global batch of N: the one 1 + floor(shift (N - 1)) places before; below 1.
        margin: by how much the cosines should differ.
    """
    anchors, positives = gather(losses.full_precision(anchors)), gather(losses.full_precision(positives))
    negatives = anchors.roll(1 + int(shift * (len(anchors) - 1)), dims=0)
    near, far = (F.cosine_similarity(anchors, others, dim=1) for others in (positives, negatives))
    return F.relu(far - near + margin).mean()
