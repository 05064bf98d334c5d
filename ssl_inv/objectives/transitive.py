"""Transitive invariance: images linked through objects and nearest neighbours become alike."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_inv.catalogue import (
    SettingError,
    require,
    require_above,
    require_at_least,
    require_between,
    require_widths,
    suggest,
)
from ssl_inv.data.source import Labels
from ssl_inv.memories.frozen_encoder import FrozenEncoder, require_network
from ssl_inv.memories.gallery import Gallery
from ssl_inv.memories.graph import NeighbourGraph
from ssl_inv.memories.pairs import KINDS, Pairs
from ssl_inv.memories.progress import Progress
from ssl_inv.memories.search import EdgeRules
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.distributed import gather
from ssl_inv.nn.heads import projector as make_projector
from ssl_inv.nn.teacher import Teacher
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.transforms import Group
from ssl_inv.transforms.keyed_random import random_bits, sample_keys
from ssl_inv.views import Linked, Views

_NEVER = -1e4
"""The similarity of images that are no negatives; minus infinity would give no gradient where there are no others."""


class TransitiveInvariance(Progress, Objective):
    """Transitive invariance (Wang, He, Gupta, ICCV 2017, arXiv 1708.02901), as far as its abstract and captions tell.

    All training images are nodes of a graph. Images A, A' of one object (frames of a track, views, augmentations of a
    photograph) are an intra-instance pair. Mutual nearest neighbours A, B of different objects, in the features of a
    teacher, are an inter-instance pair. A ~ B implies the transitive pairs <A, B'>, <A', B> and <A', B'>. Every image
    has a partner of one of the three kinds. With D minus the cosine of projections, the B pairs (a, p) of a batch, and
    M negatives n for each pair,

        L = 1 / (2 B M) sum over pairs and negatives of
            max(0, D(a, p) - D(a, n) + margin) + max(0, D(a, p) - D(p, n) + margin).

    Negatives are images of the batch for which one of the two terms is above 0. At first they are drawn at random;
    later, half of them are drawn at random among the M with the largest sum of the two terms. No negative shows an
    object of the pair, or an object that the graph connects with one of these. All views go through the network in one
    batch. `criterion: info_nce` finds a partner among all images of the batch that may be negatives:

        L = mean over pairs and both directions of
            -log(exp(cos(a, p) / T) / (exp(cos(a, p) / T) + sum_n exp(cos(a, n) / T))).

    The authors published no code. Loss, M and the halves follow the code of the predecessor (Wang, Gupta, ICCV 2015),
    whose embeddings end in a ReLU, whose margin is 1, and whose negatives may come from any other track. The paper
    finds neighbours within clusters of features of context prediction (`context-prediction`). Here they are mutual
    nearest neighbours, in the features of that or another frozen network, or of a moving average of the trained
    network, searched anew every few epochs. Weights 2, 1 and 3 are the numbers of pairs of each kind for one edge
    between two objects with two images each.

    When:
        Objects are seen in several ways (tracks of videos, turntables, multi-view data), and features must also be the
        same for different objects of one kind: an objective on pairs of views alone sees no two objects together. On
        photographs with only augmentations, it amounts to learning from neighbours. Not where features must tell how an
        object was seen or which object it is. Not without a teacher that knows kinds a little, since wrong edges are
        learnt as readily: where there are labels, `precision_inter` in the run's record tells.

    Args:
        weights: of the kinds of pairs, `intra`, `inter` and `transitive`; a kind that is not named has 0. They apply to
            the kinds that an image has; an image without a wanted kind gets an `intra` pair. `{intra: 1}` needs no
            graph and makes none.
        gap: smallest difference of the view numbers of an `intra` pair, such as frames of a track, so that the pair is
            not trivial.
        criterion: the loss.
        margin: of the triplet loss; the authors' is not known.
        negatives: M, of the triplet loss.
        hard_from: share of all steps after which negatives are hard; the authors' is not known.
        temperature: T, of InfoNCE.
        projector: widths of the projector's layers; the default is the predecessor's fully connected layers.
        neighbours: k; images of different objects are neighbours if each is among the k most similar ones of the other.
        max_degree: largest number of neighbours of an image, of which the most similar ones stay; None is k.
        least_similarity: cosine of the teacher's features below which images are no neighbours.
        cells: number of k-means cells; neighbours must be in the same cell; 0 for any.
        teacher_path: a folder with a timm network, such as a run's `export`, or a file of timm weights: a frozen
            teacher, which makes the graph once. None is a moving average of the backbone.
        teacher_architecture: timm name of the network whose weights the file holds.
        teacher_momentum: of the moving average, in every step.
        first_graph: epochs before the moving average first makes a graph; until then pairs are `intra`.
        rebuild_every: epochs between graphs. A graph costs one pass over all images and N^2 D products.
        seed: of negatives and cells, with the step and the image, or the epoch.
    """

    least_batch = 2

    looks_between_epochs = True

    graph: NeighbourGraph

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        weights: dict[str, float] = {"intra": 2.0, "inter": 1.0, "transitive": 3.0},
        gap: int = 1,
        criterion: Literal["triplet", "info_nce"] = "triplet",
        margin: float = 0.5,
        negatives: int = 4,
        hard_from: float = 0.25,
        temperature: float = 0.1,
        projector: list[int] = [4096, 1024],
        neighbours: int = 10,
        max_degree: int | None = None,
        least_similarity: float = -1.0,
        cells: int = 0,
        teacher_path: str | None = None,
        teacher_architecture: str | None = None,
        teacher_momentum: float = 0.99,
        first_graph: int = 1,
        rebuild_every: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_at_least(0, first_graph=first_graph)
        require_at_least(1, gap=gap, rebuild_every=rebuild_every)
        require_at_least(2, negatives=negatives)
        require_between(0, 1, hard_from=hard_from, teacher_momentum=teacher_momentum)
        require_above(0, margin=margin, temperature=temperature)
        require_widths(projector=projector)
        sensible = teacher_architecture is None or teacher_path is not None
        require(sensible, "teacher_architecture", "names the network of the weights at teacher_path, which is missing")
        self.weights = _of_kinds(weights)
        self.gap, self.criterion, self.margin, self.negatives = gap, criterion, margin, negatives
        self.hard_from, self.temperature, self.seed = hard_from, temperature, seed
        self.rules = EdgeRules(neighbours, max_degree, least_similarity, cells)
        self.teacher_path, self.teacher_architecture = teacher_path, teacher_architecture
        self.teacher_momentum, self.first_graph, self.rebuild_every = teacher_momentum, first_graph, rebuild_every
        self.projector = make_projector(features, projector)
        self.teacher: Teacher | None = None
        self._frozen: FrozenEncoder | None = None

    @property
    def plan(self) -> Linked:
        return Linked()

    @property
    def _joins_objects(self) -> bool:
        """Whether pairs of different objects are wanted."""
        return any(self.weights[1:])

    def adopt(self, backbone: Backbone) -> None:
        if not self._joins_objects:
            return
        if self.teacher_path is None:
            self.teacher = Teacher(backbone)
        elif Path(self.teacher_path).expanduser().exists():
            # A trained encoder can be judged even where the teacher is gone.
            self._frozen = FrozenEncoder(self.teacher_path, self.teacher_architecture)

    def allocate(self, objects: int, images: int) -> None:
        enough = not self._joins_objects or self.rules.cells <= images
        require(enough, "cells", f"{self.rules.cells}, but the training data has {images} images")
        self.graph = NeighbourGraph(objects, images, self.rules.width)

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        assert views.shown is not None, "a Linked plan says which images it shows"
        embeddings = self.projector(backbone(torch.cat([view.pixels for view in views.views])))
        first, second = losses.unit_rows(embeddings).chunk(2)
        return self.embedding_loss(first, second, views.shown[..., 0], views.index)

    def embedding_loss(self, first: Tensor, second: Tensor, objects: Tensor, index: Tensor) -> Losses:
        """The loss from unit vectors.

        Args:
            first: of the images, `(B, D)`.
            second: of their partners, `(B, D)`.
            objects: that both show, `(2, B)`.
            index: numbers of the samples, `(B,)`.
        """
        objects = objects.to(first.device, non_blocking=True)
        candidates = torch.cat((gather(first), gather(second)))
        others = torch.cat((gather(objects[0]), gather(objects[1])))
        allowed = ~(self.graph.related(objects[0], others) | self.graph.related(objects[1], others))
        with torch.autocast(first.device.type, enabled=False):
            positive = (first * second).sum(dim=1)
            similarities = torch.stack((first @ candidates.T, second @ candidates.T))
            if self.criterion == "info_nce":
                forth, back = (
                    losses.contrast(positive, one.masked_fill(~allowed, _NEVER), self.temperature)
                    for one in similarities
                )
                return {"info_nce": Term((forth + back) / 2)}
            hinges = F.relu(similarities - positive.unsqueeze(1) + self.margin).sum(dim=0) * allowed
            keys = sample_keys(index, first.device, self.seed, self.steps_done)
            chosen = choose_negatives(hinges.detach(), self.negatives, self.share_done >= self.hard_from, keys)
            violating = losses.sample_mean((hinges.detach() > 0).sum(dim=1) / allowed.sum(dim=1).clamp_min(1))
            triplet = losses.sample_mean((hinges * chosen).sum(dim=1)) / (2 * self.negatives)
        return {"triplet": Term(triplet), "violating": Term(violating, 0.0)}

    @torch.no_grad()
    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        if self.teacher is not None:
            self.teacher.follow(backbone, self.teacher_momentum)
            self.teacher.follow_statistics(backbone, self.teacher_momentum)
        self.advance(step, steps)

    def between_epochs(self, backbone: Backbone, epoch: int, gallery: Gallery) -> None:
        if epoch == 0:
            self.graph.lay_out(gallery.view_counts)
        if not self._joins_objects:
            return
        if self.teacher is not None:
            if epoch >= self.first_graph and (epoch - self.first_graph) % self.rebuild_every == 0:
                self.graph.build(gallery, self.teacher, self.rules, self.seed + epoch)
        elif epoch == 0:
            frozen = self._require_frozen()
            self.graph.build(frozen.gallery(gallery), frozen.network, self.rules, self.seed)
            frozen.network.cpu()

    def _require_frozen(self) -> FrozenEncoder:
        assert self.teacher_path is not None
        if self._frozen is None:
            require_network(Path(self.teacher_path).expanduser())
            self._frozen = FrozenEncoder(self.teacher_path, self.teacher_architecture)
        return self._frozen

    def links(self, seed: int) -> Pairs | None:
        """None before the first epoch, when the images are not known yet."""
        return self.graph.pairs(self.weights, self.gap, seed) if self.graph.most_views else None

    def diagnostics(self, labels: Labels | None) -> dict[str, float]:
        pairs = self.links(self.seed)
        return {} if pairs is None or not self._joins_objects else pairs.statistics(labels)


def choose_negatives(hinges: Tensor, count: int, hard: bool, keys: Tensor) -> Tensor:
    """Which of C candidates are the negatives of each pair, `(B, C)`, bool; at most `count`, which all violate the
    margin.

    Args:
        hinges: by how much each candidate violates the margin, `(B, C)`, at least 0.
        count: M.
        hard: whether half of them are drawn among the M with the largest hinges; else all are drawn among all.
        keys: of the draws, `(B,)`.
    """
    violating, count = hinges > 0, min(count, hinges.shape[1])
    for_hard, for_all = random_bits(keys, 2 * hinges.shape[1]).double().chunk(2, dim=1)
    chosen = torch.zeros_like(violating)
    if hard:
        hardest = torch.zeros_like(violating).scatter_(1, hinges.topk(count, dim=1).indices, True) & violating
        chosen = _drawn(hardest, for_hard, count // 2)
    return chosen | _drawn(violating & ~chosen, for_all, count - count // 2 if hard else count)


def _drawn(among: Tensor, draws: Tensor, count: int) -> Tensor:
    """The `count` true entries of each row with the largest draws, or all where there are fewer."""
    largest = draws.masked_fill(~among, -torch.inf).topk(count, dim=1).indices
    return torch.zeros_like(among).scatter_(1, largest, True) & among


def _of_kinds(weights: Mapping[str, float]) -> tuple[float, float, float]:
    if (unknown := next((name for name in weights if name not in KINDS), None)) is not None:
        raise SettingError("weights", f"no kind of pairs is called {unknown!r}; {suggest(unknown, KINDS)}")
    usable = min(weights.values(), default=0) >= 0 and any(weights.values())
    require(usable, "weights", f"must be at least 0, and one above 0, got {dict(weights)}")
    intra, inter, transitive = (float(weights.get(name, 0.0)) for name in KINDS)
    return intra, inter, transitive
