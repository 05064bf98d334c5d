"""ODC: classify images by pseudo-labels that change a little in every step."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import require, require_at_least
from ssl_inv.data.source import Labels
from ssl_inv.memories.bank import Bank
from ssl_inv.memories.clusters import Clusters
from ssl_inv.memories.gallery import Gallery
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.distributed import all_sum
from ssl_inv.objectives.base import Losses, PairLoss, PairObjective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import Crops, MultiCrop, Views


class ODC(PairObjective):
    """Online deep clustering (Zhan et al., CVPR 2020, sec. 3).

    A bank holds a unit vector f_i of every training image and its pseudo-label y_i, one of K clusters. With p the
    softmax of a linear classifier of the projected view, and n_c the size of cluster c,

        L = sum_i w_i (-log p_i(y_i)) / sum_i w_i,   w_i = n_(y_i)^(-reweighting).

    After the step f_i becomes (1 - m) f_i + m z_i, at length one, with z_i the projection, and y_i becomes the cluster
    with the most similar centroid. At intervals, centroids become the means of their members. Clusters that have become
    small are emptied and get half of the largest one. The bank begins with the untrained network's projections of whole
    images, clustered by k-means. The weights are over the global batch. The authors train the classifier without
    momentum; here one optimiser serves all.

    When:
        Clustering as the training signal without a pause between epochs, with one view and one network: about half the
        cost of a contrastive step. Not where accuracy matters most, since it is behind DeepCluster-v2 and the
        contrastive objectives. Not on data far from balanced. Not in training of few passes, where labels lag behind
        features.

    Args:
        projector: widths of the two layers of the projector: linear, normalisation, ReLU, dropout, linear, ReLU.
        dropout: share of the hidden units that are dropped.
        clusters: K; the paper's 10,000 are for 1.28 million images.
        cluster_iterations: of k-means.
        cluster_points: largest number of objects for each cluster that k-means reads; all objects get a cluster.
        centroid_every: steps between updates of centroids from their members.
        smallest_cluster: clusters with fewer members are emptied and get half of the largest one; 0 for never.
        reweighting: additional weight of small clusters; with 0 all images have equal weight.
        bank_renewal: m, the share of a stored vector that a step renews.
        bank_precision: of the stored vectors.
        bank_place: `host` keeps the bank out of the GPU's memory.
        seed: of the first clusters.
    """

    looks_between_epochs = True

    bank: Bank
    clusters: Clusters

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        projector: list[int] = [512, 256],
        dropout: float = 0.5,
        clusters: int = 10000,
        cluster_iterations: int = 20,
        cluster_points: int = 256,
        centroid_every: int = 10,
        smallest_cluster: int = 20,
        reweighting: float = 0.5,
        bank_renewal: float = 0.5,
        bank_precision: Literal["fp32", "fp16"] = "fp32",
        bank_place: Literal["device", "host"] = "device",
        seed: int = 0,
    ) -> None:
        super().__init__()
        require(len(projector) == 2, "projector", f"must name two widths, got {projector}")
        require_at_least(
            1, cluster_iterations=cluster_iterations, cluster_points=cluster_points, centroid_every=centroid_every
        )
        require_at_least(2, clusters=clusters)
        require_at_least(0, reweighting=reweighting)
        hidden, self.dimensions = projector
        first = (
            nn.Linear(features, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )
        self.projector = nn.Sequential(*first, nn.Linear(hidden, self.dimensions), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(self.dimensions, clusters)
        self.centroid_every, self.smallest_cluster = centroid_every, smallest_cluster
        self.reweighting, self.seed = reweighting, seed
        self.cluster_iterations, self.cluster_points = cluster_iterations, cluster_points
        self.storage: dict[str, Any] = {"renewal": bank_renewal, "precision": bank_precision, "place": bank_place}

    @property
    def plan(self) -> MultiCrop:
        return MultiCrop((Crops(1),))

    def allocate(self, objects: int, images: int) -> None:
        count = self.classifier.out_features
        self.bank = Bank(objects, self.dimensions, **self.storage)
        self.clusters = Clusters(objects, count, self.dimensions, self.smallest_cluster)

    def pair(self, views: Views, backbone: Backbone) -> PairLoss:
        z = self.embed(views[0].pixels, backbone)
        return PairLoss(self.embedding_loss(z.embeddings, views.index), z, z)

    def embedding_loss(self, z: Tensor, index: Tensor) -> Losses:
        """The loss from projections `(B, D)` of the images `index`, `(B,)`; the projections enter the bank after the
        step.
        """
        self.bank.put(index, z.detach())
        labels = self.clusters.labels[index.to(z.device, non_blocking=True)].long()
        logits = self.classifier(z)
        with torch.autocast(z.device.type, enabled=False):
            errors = F.cross_entropy(
                logits if logits.dtype == torch.float64 else logits.float(), labels, reduction="none"
            )
            weights = self.clusters.members.sizes[labels].to(errors.dtype) ** -self.reweighting
            total, weight = all_sum(torch.stack((errors @ weights, weights.sum())))
            return {"pseudo_labels": Term(total / weight)}

    @torch.no_grad()
    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        for index, rows in self.bank.flush():
            self.clusters.relabel(index, rows)
        if step % self.centroid_every == 0:
            self.clusters.recentre(self.bank)
        self.clusters.mend(self.bank)

    def between_epochs(self, backbone: Backbone, epoch: int, gallery: Gallery) -> None:
        if epoch == 0:
            self.bank.fill(gallery, nn.Sequential(backbone, self.projector))
            self.clusters.fit(self.bank, self.cluster_iterations, self.seed, points=self.cluster_points)
            self.clusters.recentre(self.bank)

    def diagnostics(self, labels: Labels | None) -> dict[str, float]:
        return self.clusters.agreement(labels)
