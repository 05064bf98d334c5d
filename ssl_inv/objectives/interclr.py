"""InterCLR: beside an objective on single images, other images of the same cluster are positives."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, require_above, require_at_least, require_between
from ssl_inv.data.source import Labels
from ssl_inv.memories.bank import Bank
from ssl_inv.memories.clusters import Clusters
from ssl_inv.memories.draws import Drawn, Negatives, draw_positives
from ssl_inv.memories.gallery import Gallery
from ssl_inv.memories.progress import Progress
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import mlp
from ssl_inv.nn.teacher import Teacher
from ssl_inv.objectives.around import Around, base_objective, beside
from ssl_inv.objectives.base import Losses, Objective, PairObjective, Term
from ssl_inv.transforms import Group
from ssl_inv.transforms.keyed_random import sample_keys
from ssl_inv.views import Crops, MultiCrop, Pair, Plan, Several, Views

_POSITIVES, _NEGATIVES = range(2)
"""Streams of random numbers."""


_NEVER = -1e4
"""The similarity of a missing negative. With minus infinity there would be no gradient if all are missing."""


class InterCLR(Progress, Around):
    """Inter-image invariance (Xie et al., IJCV 2022, arXiv 2008.11702, eq. 1 to 6) beside an objective on single
    images.

    A bank holds a unit vector of every training image, and every image has a pseudo-label, its cluster. Let q be the
    query, v+ the bank's vector of a random image from the query's cluster, and v_1, ..., v_M the vectors of images from
    other clusters. Then

        L = (1 - weight) L_base + weight CE([(q . v+ - margin) / T, q . v_1 / T, ..., q . v_M / T], first).

    Query and key are the base's projections of the first and the last view. If the base has a teacher, the key is the
    teacher's. After the step, the key replaces its image's vector in the bank, and the image moves to the cluster with
    the most similar centroid. From time to time, centroids become the means of their members. The bank starts with the
    untrained network's embeddings of the whole images, clustered by k-means. For a base without negatives,
    `negatives: none` gives 2 - 2 cos(p, v+), where p is the base's prediction.

    The authors' code redraws negatives of the query's own cluster until there are none; this may never end, and some
    negatives come twice. Here negatives are drawn at once from the other clusters of the pool, without repetition while
    there are enough, stratified in the order of the data; if the pool has none, from the whole bank. The authors'
    code sends the bank to all processes in every step; here every process updates its own copy in the same way. If an
    angular margin leads beyond 0 or pi, their cosine jumps by 1 - cos m - m sin m and continues as a straight line;
    here it continues without a jump.

    When:
        Features for classes, on data with many images of each kind: then another image as a positive is mostly of the
        same kind. It adds a bank and a matrix product with the bank to the base. Not on data without such kinds, nor
        where an image has to be told from similar ones; nor for short training: entries are up to one epoch old, and if
        features change much within an epoch, online labels lose the knowledge of the first clusters. `nmi` and
        `purity` in the run's record, before each epoch, show this.

    Args:
        base: the objective on single images, a mapping with its `name` and settings: `moco-v2` as released, or any
            `PairObjective` with one view, or several views of one size, such as `npid`, `byol` and `simsiam`.
        weight: of the inter-image term; the base has 1 minus it.
        warmup: share of all steps in which the base has weight 1 and the inter-image term 0.
        share_neck: whether the base's projector makes queries and keys; otherwise a second projector does.
        neck: widths of that second projector, with ReLU between its layers.
        neck_momentum: share of its weights that the second projector's teacher keeps in every step, if the base has a
            teacher.
        clusters: K; the paper's 10,000 are for 1.28 million images.
        cluster_iterations: of k-means.
        cluster_points: largest number of objects per cluster that k-means is fitted to; all objects get a cluster.
        labels: `online` assigns the images of each batch to clusters; `offline` assigns all images by k-means on the
            bank, every `cluster_epochs`.
        cluster_epochs: epochs between two clusterings; offline labels only.
        centroid_every: steps between updates of centroids from their members; online labels only.
        smallest_cluster: smaller clusters are emptied and get half of the largest one; 0 for never; online labels only.
        negatives: `semi-hard` draws from the pool of the images most similar to the query, `semi-easy` from the pool of
            the least similar ones, `random` from all images; `hard` takes the most similar ones; `none` is for bases
            without negatives.
        negative_count: M.
        pool: images in the pool; in the paper, a tenth of its data.
        own_entry: whether the positive may be the image itself.
        boundary: `cosine` subtracts the margin from the cosine; `angle` adds it, in radians, to the angle. Beyond 0 and
            pi, the cosine continues as a straight line.
        margin: below 0 makes the decision less strict.
        temperature: T, which divides the cosine similarities.
        bank_renewal: weight of the new key in the stored vector; the old vector has the rest. ODC uses 0.5.
        bank_precision: of the stored vectors.
        bank_place: `host` keeps the bank out of the GPU's memory.
        seed: decides clusters, positives and negatives, with the step and the image.
    """

    looks_between_epochs = True

    base: PairObjective
    bank: Bank
    clusters: Clusters

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        base: Annotated[dict[str, Any], "objective"],
        weight: float = 0.25,
        warmup: float = 0.0,
        share_neck: bool = True,
        neck: list[int] = [2048, 128],
        neck_momentum: float = 0.999,
        clusters: int = 10000,
        cluster_iterations: int = 20,
        cluster_points: int = 256,
        labels: Literal["online", "offline"] = "online",
        cluster_epochs: int = 1,
        centroid_every: int = 10,
        smallest_cluster: int = 20,
        negatives: Literal["semi-hard", "hard", "semi-easy", "random", "none"] = "semi-hard",
        negative_count: int = 16384,
        pool: int = 128000,
        own_entry: bool = True,
        boundary: Literal["cosine", "angle"] = "cosine",
        margin: float = -0.5,
        temperature: float = 0.2,
        bank_renewal: float = 1.0,
        bank_precision: Literal["fp32", "fp16"] = "fp32",
        bank_place: Literal["device", "host"] = "device",
        seed: int = 0,
    ) -> None:
        require_at_least(
            1, cluster_iterations=cluster_iterations, cluster_points=cluster_points, cluster_epochs=cluster_epochs
        )
        require_at_least(1, centroid_every=centroid_every, negative_count=negative_count, pool=pool)
        require_between(0, 1, weight=weight, warmup=warmup, neck_momentum=neck_momentum)
        require_above(0, temperature=temperature)
        if boundary == "angle" and abs(margin) >= math.pi:
            raise SettingError("margin", f"must be an angle within pi of 0, got {margin}")
        if not (share_neck or neck):
            raise SettingError("neck", "must name at least one width")
        if negatives == "none" and not share_neck:
            raise SettingError(
                "negatives", "none compares the base's predictions with the bank, so share_neck must be true"
            )
        super().__init__(base=_suitable(base_objective(features, groups, **base), base["name"]))
        self.neck = None if share_neck else mlp((features, *neck))
        self.neck_teacher: Teacher | None = None
        self.weight, self.warmup, self.neck_momentum = weight, warmup, neck_momentum
        self.boundary, self.margin, self.temperature, self.own_entry = boundary, margin, temperature, own_entry
        self.negatives = None if negatives == "none" else Negatives(negatives, negative_count, pool)
        self.cluster_count, self.smallest_cluster, self.centroid_every = clusters, smallest_cluster, centroid_every
        self.online, self.cluster_epochs = labels == "online", cluster_epochs
        self.cluster_iterations, self.cluster_points = cluster_iterations, cluster_points
        self.storage: dict[str, Any] = {"renewal": bank_renewal, "precision": bank_precision, "place": bank_place}
        self.seed = seed

    @property
    def projector(self) -> nn.Module:
        """The network from pooled features to queries."""
        return self.base.projector if self.neck is None else self.neck

    def adopt(self, backbone: Backbone) -> None:
        super().adopt(backbone)
        if self.neck is not None and self.base.has_teacher:
            self.neck_teacher = Teacher(self.neck)

    def allocate(self, objects: int, images: int) -> None:
        super().allocate(objects, images)
        if self.negatives is not None:
            self.negatives.require_fit(objects)
        width = output_width(self.projector)
        self.bank = Bank(objects, width, **self.storage)
        self.clusters = Clusters(objects, self.cluster_count, width, self.smallest_cluster if self.online else 0)

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        pair = self.base.pair(views, backbone)
        weight = self.weight if self.share_done >= self.warmup else 0.0
        if self.neck is None:
            queries, keys = pair.queries.embeddings, pair.keys.embeddings
        else:
            # In this order: autocast may cache cast weights, and weights cast without a gradient would have none.
            queries = self.neck(pair.queries.features)
            with torch.no_grad():
                keys = (self.neck_teacher or self.neck)(pair.keys.features)
        self.bank.put(views.index, keys.detach())
        if self.negatives is None:
            inter = self.attraction(queries if pair.predictions is None else pair.predictions, views.index)
        else:
            inter = self.inter_loss(queries, views.index, self.negatives)
        intra = {name: Term(term.value, (1 - weight) * term.weight) for name, term in pair.terms.items()}
        return beside(intra, {"inter": Term(inter, weight)})

    def inter_loss(self, queries: Tensor, index: Tensor, negatives: Negatives) -> Tensor:
        """The inter-image term of queries `(B, D)` of the images `index`, `(B,)`."""
        queries = losses.unit_rows(queries)
        with torch.autocast(queries.device.type, enabled=False):
            keys = sample_keys(index, queries.device, self.seed, self.steps_done, _NEGATIVES)
            labels = self.clusters.labels[index.to(queries.device, non_blocking=True)].long()
            members = self.clusters.members
            drawn = negatives.draw(queries.detach(), labels, self.bank, self.clusters.labels, members, keys)
            return self.contrast(queries, self._positives(index, queries.device), drawn)

    def contrast(self, queries: Tensor, positives: Tensor, negatives: Drawn) -> Tensor:
        """The cross entropy of unit vectors `(B, D)` with their positives, objects `(B,)`, and negatives."""
        positive = with_margin(
            self.bank.similarity(queries, positives.unsqueeze(1)).squeeze(1), self.margin, self.boundary
        )
        similarity = self.bank.similarity(queries, negatives.objects, negatives.similarities)
        return losses.contrast(positive, similarity.masked_fill(~negatives.found, _NEVER), self.temperature)

    def attraction(self, predictions: Tensor, index: Tensor) -> Tensor:
        """The inter-image term without negatives, of predictions `(B, D)` for the images `index`, `(B,)`."""
        return losses.cosine_error(
            predictions, self.bank.rows(self._positives(index, predictions.device), predictions.detach())
        )

    def _positives(self, index: Tensor, device: torch.device) -> Tensor:
        keys = sample_keys(index, device, self.seed, self.steps_done, _POSITIVES)
        index = index.to(device, non_blocking=True)
        return draw_positives(self.clusters.members, self.clusters.labels[index].long(), index, keys, self.own_entry)

    @torch.no_grad()
    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        super().after_step(backbone, step, steps)
        if self.neck_teacher is not None:
            self.neck_teacher.follow(self.projector, self.neck_momentum)
        for index, rows in self.bank.flush():
            if self.online:
                self.clusters.relabel(index, rows)
        if self.online:
            if step % self.centroid_every == 0:
                self.clusters.recentre(self.bank)
            self.clusters.mend(self.bank)
        self.advance(step, steps)

    def between_epochs(self, backbone: Backbone, epoch: int, gallery: Gallery) -> None:
        super().between_epochs(backbone, epoch, gallery)
        if epoch == 0:
            self.bank.fill(gallery, nn.Sequential(backbone, self.projector))
        if epoch == 0 or (not self.online and epoch % self.cluster_epochs == 0):
            self.clusters.fit(self.bank, self.cluster_iterations, self.seed + epoch, points=self.cluster_points)
            self.clusters.recentre(self.bank)

    def diagnostics(self, labels: Labels | None) -> dict[str, float]:
        return {**super().diagnostics(labels), **self.clusters.agreement(labels)}


def with_margin(cosines: Tensor, margin: float, boundary: Literal["cosine", "angle"]) -> Tensor:
    """Similarities with a margin: cos - margin, or cos(angle + margin).

    The latter continues with slope 1 where the angle would be below 0 or above pi, so it increases with the cosine
    everywhere.
    """
    if boundary == "cosine":
        return cosines - margin
    sines = (1 - cosines.square()).clamp_min(torch.finfo(cosines.dtype).eps).sqrt()
    turned = cosines * math.cos(margin) - sines * math.sin(margin)
    if margin < 0:
        return torch.where(cosines < math.cos(margin), turned, 1 + cosines - math.cos(margin))
    return torch.where(cosines > -math.cos(margin), turned, cosines + math.cos(margin) - 1)


def _images(plan: Plan) -> range:
    """The first views of a plan, all of one kind, that the bank's vectors can come from; may be empty."""
    match plan:
        case Pair() | MultiCrop(crops=(Crops(),)) if not plan.linked:
            return range(plan.count)
        case Several(plans=(first, *_)) if not plan.linked:
            return _images(first)
    return range(0)


def _suitable(base: Objective, name: str) -> PairObjective:
    """The base; a `SettingError` if it does not fit."""
    if not isinstance(base, PairObjective):
        raise SettingError(
            "base", f"{name!r} gives no queries and keys; choose a PairObjective, such as moco-v2 or byol"
        )
    if not _images(base.plan):
        raise SettingError(
            "base",
            f"{name!r} has views of other images or crops of several sizes; the bank needs an image's own, of one size",
        )
    return base


def output_width(projector: nn.Module) -> int:
    """Output dimensions of a projector: those of its last linear map."""
    return [layer.out_features for layer in projector.modules() if isinstance(layer, nn.Linear)][-1]
