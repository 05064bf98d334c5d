"""DeepCluster-v2: every crop predicts the cluster of its image at the beginning of the epoch."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import require, require_above, require_at_least, require_widths
from ssl_inv.data.source import Labels
from ssl_inv.memories.bank import Bank
from ssl_inv.memories.clusters import Clusters
from ssl_inv.memories.gallery import Gallery
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import projector as make_projector
from ssl_inv.objectives.base import Embedded, Losses, PairLoss, PairObjective, Term
from ssl_inv.objectives.multi_crop import by_crop, encode_by_size, global_and_local
from ssl_inv.transforms import Group
from ssl_inv.views import MultiCrop, Views

_GLOBAL_CROPS = 2


class DeepClusterV2(PairObjective):
    """Offline clustering with prototypes that are centroids (Caron et al., "SwAV", NeurIPS 2020, app. D).

    Two banks hold the normalised projections of the two global crops of every image, from the last time it was seen.
    Before each epoch, spherical k-means runs for each set h of K_h prototypes, on the first bank for h = 0, on the
    second for h = 1, and so on in turn. It gives centroids c of length one and the cluster y of every image. With z the
    normalised projection of a crop,

        L = mean over sets and crops of CE(softmax(z . c^h / temperature), y^h).

    Prototypes have no gradient, so no layer has to learn the numbering of new clusters. Before the first epoch both
    banks hold the untrained network's projections of whole images; the authors use a pass over crops. k-means reads a
    sample of the bank; then every image is assigned to its nearest cluster.

    When:
        Features for classes, from ResNets with many crops. Targets come from the whole data set, so batches may be
        small. Not where an epoch is very long, since targets are that old. Not where features must tell how an image
        was seen.

    Args:
        local_crops: number of small crops of a sample, besides two global ones of the augmentation's size and scale.
        local_size: side of local crops in pixels.
        local_scale: smallest and largest share of the image's area that a local crop takes.
        projector: widths of the projector's layers; the last is the dimension of the prototypes.
        prototypes: number of prototypes in each set; the authors' sets differ in how k-means begins.
        cluster_iterations: of k-means.
        cluster_points: largest number of objects for each prototype that k-means reads.
        temperature: divides the similarities.
        bank_precision: of the stored projections.
        bank_place: `host` keeps the banks out of the GPU's memory.
        seed: of the sample and the first centroids, with the epoch and the set.
    """

    looks_between_epochs = True

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        local_crops: int = 6,
        local_size: int = 96,
        local_scale: list[float] = [0.05, 0.14],
        projector: list[int] = [2048, 128],
        prototypes: list[int] = [3000, 3000, 3000],
        cluster_iterations: int = 10,
        cluster_points: int = 256,
        temperature: float = 0.1,
        bank_precision: Literal["fp32", "fp16"] = "fp32",
        bank_place: Literal["device", "host"] = "device",
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_widths(projector=projector)
        problem = f"must name at least one set of at least 2, got {prototypes}"
        require(min(prototypes, default=0) >= 2, "prototypes", problem)
        require_at_least(1, cluster_iterations=cluster_iterations, cluster_points=cluster_points)
        require_above(0, temperature=temperature)
        self.crops = global_and_local(local_crops, local_size, local_scale)
        self.projector = make_projector(features, projector)
        self.dimensions, self.prototypes, self.temperature, self.seed = projector[-1], prototypes, temperature, seed
        self.cluster_iterations, self.cluster_points = cluster_iterations, cluster_points
        self.storage: dict[str, Any] = {"precision": bank_precision, "place": bank_place}
        self.banks, self.sets = nn.ModuleList(), nn.ModuleList()

    @property
    def plan(self) -> MultiCrop:
        return self.crops

    def allocate(self, objects: int, images: int) -> None:
        problem = f"must be at most the {objects} objects of the training data, got {self.prototypes}"
        require(max(self.prototypes) <= objects, "prototypes", problem)
        self.banks.extend(Bank(objects, self.dimensions, **self.storage) for _ in range(_GLOBAL_CROPS))
        self.sets.extend(Clusters(objects, count, self.dimensions) for count in self.prototypes)

    def pair(self, views: Views, backbone: Backbone) -> PairLoss:
        features = encode_by_size(backbone, views.views)
        z = Embedded(features, self.projector(features))
        terms = self.embedding_loss(by_crop(losses.unit_rows(z.embeddings), len(views)), views.index)
        first, *_, last = z.by_view(len(views))
        return PairLoss(terms, first, last)

    def embedding_loss(self, z: Tensor, index: Tensor) -> Losses:
        """The loss from normalised projections `(V, B, D)` of V crops of the images `index`, `(B,)`; the two global
        crops come first.
        """
        for bank, crop in zip(self._banks(), z, strict=False):
            bank.put(index, crop.detach())
        with torch.autocast(z.device.type, enabled=False):
            index = index.to(z.device, non_blocking=True)
            found = [self._cross_entropy(z, clusters, index) for clusters in self._sets()]
        return {"clusters": Term(torch.stack(found).mean())}

    def _cross_entropy(self, z: Tensor, clusters: Clusters, index: Tensor) -> Tensor:
        logits = F.linear(z, clusters.centroids.to(z.dtype)) / self.temperature
        return losses.classification(logits.flatten(0, 1), clusters.labels[index].long().repeat(len(z)))

    def _banks(self) -> list[Bank]:
        return [bank for bank in self.banks if isinstance(bank, Bank)]

    def _sets(self) -> list[Clusters]:
        return [clusters for clusters in self.sets if isinstance(clusters, Clusters)]

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        for bank in self._banks():
            bank.flush()

    def between_epochs(self, backbone: Backbone, epoch: int, gallery: Gallery) -> None:
        banks, sets = self._banks(), self._sets()
        if epoch == 0:
            banks[0].fill(gallery, nn.Sequential(backbone, self.projector))
            banks[1].vectors.copy_(banks[0].vectors)
        for number, clusters in enumerate(sets):
            bank, seed = banks[number % _GLOBAL_CROPS], self.seed + epoch * len(sets) + number
            clusters.fit(bank, self.cluster_iterations, seed, spherical=True, points=self.cluster_points)

    def diagnostics(self, labels: Labels | None) -> dict[str, float]:
        """Means over the sets of prototypes."""
        found = [clusters.agreement(labels) for clusters in self._sets()]
        return {name: sum(one[name] for one in found) / len(found) for name in found[0]}
