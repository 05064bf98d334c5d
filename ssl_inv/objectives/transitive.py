"""Transitive invariance: what is like another view of one object, or like another object, is like all that these are
like.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_inv.catalogue import SettingError, require_filled, suggest
from ssl_inv.data.source import Labels
from ssl_inv.memories.frozen_encoder import FrozenEncoder, require_network
from ssl_inv.memories.gallery import Gallery
from ssl_inv.memories.graph import NeighbourGraph
from ssl_inv.memories.pairs import KINDS, Pairs
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
"""The similarity of what an image is not to be told from; minus infinity would have no gradient where there is nothing
else.
"""


class TransitiveInvariance(Objective):
    """Transitive invariance (Wang, He, Gupta, ICCV 2017, arXiv 1708.02901), as far as its abstract and captions tell.

    Nodes of a graph are all training images. Images A, A' of one object (frames of a track, views, augmentations of a
    photograph) are an intra-instance pair; mutual nearest neighbours A, B of different objects in the features of a
    teacher are an inter-instance pair; and from A ~ B follow the transitive pairs <A, B'>, <A', B> and <A', B'>. Beside
    every image stands a partner of one of the three kinds. With D minus the cosine of projections, the B pairs (a, p)
    of a batch, and M negatives n for each pair,

        L = 1 / (2 B M) sum over pairs and negatives of max(0, D(a, p) - D(a, n) + margin) + max(0, D(a, p) - D(p, n) +
        margin).

    Negatives are images of the batch for which one of the two terms is above 0: at random at first, later one half of
    them at random among the M with the largest sum of the two. None is of an object of the pair or of an object that
    the graph connects with one of these. All views go through the network in one batch. `criterion: info_nce` tells a
    partner from all images of the batch that may be negatives,

        L = mean over pairs and both directions of -log(exp(cos(a, p) / T) / (exp(cos(a, p) / T) + sum_n exp(cos(a, n) /
        T))).

    There is no code of the authors. Loss, M and the halves are those of the code of the predecessor (Wang, Gupta, ICCV
    2015), whose embeddings end in a ReLU, whose margin is 1, and whose negatives may be of any other track. The paper
    finds neighbours within clusters of features of context prediction (`context-prediction`); here they are mutual
    ones, by that or another frozen network or, anew every few epochs, by a moving average of the one that learns.
    Weights 2, 1 and 3 are how many pairs of each kind an edge between two objects with two images each stands for.

    When:
        Objects seen in several ways (tracks of videos, turntables, multi-view data) where features shall also be the
        same for different objects of one kind: an objective on pairs of views alone sees no two objects together. On
        photographs with augmentations alone, it comes down to learning from neighbours. Not where features have to tell
        how an object was seen or which one it is; nor without a teacher that knows kinds a little, as wrong edges are
        learnt as readily: `precision_inter` in the run's record tells where there are labels.

    Args:
        weights: of the kinds of pairs, `intra`, `inter` and `transitive`, a kind not named having 0. They hold among
            those that an image has; where it has none of those wanted, it gets an `intra` pair. `{intra: 1}` needs no
            graph and makes none.
        gap: least difference of the numbers of the views of an `intra` pair, such as frames of a track, so that it is
        not trivial.
        criterion: the loss.
        margin: of the triplet loss; the authors' is not known.
        negatives: M, of the triplet loss.
        hard_from: share of all steps after which negatives are hard; when the authors begin is not known.
        temperature: T, of InfoNCE.
        projector: widths of the projector's layers; the predecessor's fully connected ones.
        neighbours: k; images of different objects are neighbours if each is among the k most similar ones of the other.
        max_degree: neighbours that an image keeps, the most similar ones; None is k.
        least_similarity: cosine of the teacher's features below which images are no neighbours.
        cells: neighbours must be in the same of so many k-means cells; 0 for any.
        teacher_path: a folder that holds a timm network, such as a run's `export`, or a file of timm weights: a frozen
            teacher, by which the graph is made once. None is a moving average of the backbone.
        teacher_architecture: the timm name of the network whose weights a file holds.
        teacher_momentum: what the moving average keeps of itself in every step.
        first_graph: epochs before the moving average is asked for neighbours for the first time; until then pairs are
        `intra`.
        rebuild_every: epochs after which it is asked again. A graph costs one pass over all images and N^2 D products.
        seed: decides negatives and cells, with the number of the step and of the image, or of the epoch.
    """

    looks_between_epochs = True

    graph: NeighbourGraph

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        weights: dict[str, float] = {"intra": 2.0, "inter": 1.0, "transitive": 3.0},  # noqa: B006 - never changed, a recipe shows it
        gap: int = 1,
        criterion: Literal["triplet", "info_nce"] = "triplet",
        margin: float = 0.5,
        negatives: int = 4,
        hard_from: float = 0.25,
        temperature: float = 0.1,
        projector: list[int] = [4096, 1024],  # noqa: B006
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
        at_least = {"gap": 1, "negatives": 2, "first_graph": 0, "rebuild_every": 1}
        counts = {"gap": gap, "negatives": negatives, "first_graph": first_graph, "rebuild_every": rebuild_every}
        if wrong := next((name for name, count in counts.items() if count < at_least[name]), None):
            raise SettingError(wrong, f"must be at least {at_least[wrong]}, got {counts[wrong]}")
        shares = {"hard_from": hard_from, "teacher_momentum": teacher_momentum}
        if wrong := next((name for name, share in shares.items() if not 0 <= share <= 1), None):
            raise SettingError(wrong, f"must lie between 0 and 1, got {shares[wrong]}")
        positive = {"margin": margin, "temperature": temperature}
        if wrong := next((name for name, value in positive.items() if value <= 0), None):
            raise SettingError(wrong, f"must be above 0, got {positive[wrong]}")
        require_filled(projector=projector)
        if teacher_architecture is not None and teacher_path is None:
            raise SettingError("teacher_architecture", "is of the weights that teacher_path leads to, which is missing")
        self.weights = _of_kinds(weights)
        self.gap, self.criterion, self.margin, self.negatives = gap, criterion, margin, negatives
        self.hard_from, self.temperature, self.seed = hard_from, temperature, seed
        self.rules = EdgeRules(neighbours, max_degree, least_similarity, cells)
        self.teacher_path, self.teacher_architecture = teacher_path, teacher_architecture
        self.teacher_momentum, self.first_graph, self.rebuild_every = teacher_momentum, first_graph, rebuild_every
        self.projector = make_projector(features, projector)
        self.teacher: Teacher | None = None
        self._frozen: FrozenEncoder | None = None
        self._steps_done, self._progress = 0, 0.0

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
            # Where it is gone, a trained encoder can be judged all the same.
            self._frozen = FrozenEncoder(self.teacher_path, self.teacher_architecture)

    def allocate(self, objects: int, images: int) -> None:
        if self._joins_objects and self.rules.cells > images:
            raise SettingError("cells", f"{self.rules.cells}, but the training data has {images} images")
        self.graph = NeighbourGraph(objects, images, self.rules.width)

    def get_extra_state(self) -> dict[str, float]:
        """How many steps are done, which negatives depend on, and which share of all steps, by which they become hard."""
        return {"steps": self._steps_done, "progress": self._progress}

    def set_extra_state(self, state: dict[str, float]) -> None:
        """Continue from there."""
        self._steps_done, self._progress = int(state["steps"]), state["progress"]

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
            objects: which both show, `(2, B)`.
            index: the numbers of the samples, `(B,)`.
        """
        objects = objects.to(first.device, non_blocking=True)
        candidates, others = (
            torch.cat((gather(first), gather(second))),
            torch.cat((gather(objects[0]), gather(objects[1]))),
        )
        allowed = ~(self.graph.related(objects[0], others) | self.graph.related(objects[1], others))
        with torch.autocast(first.device.type, enabled=False):
            positive, similarities = (
                (first * second).sum(dim=1),
                torch.stack((first @ candidates.T, second @ candidates.T)),
            )
            if self.criterion == "info_nce":
                forth, back = (
                    losses.contrast(positive, one.masked_fill(~allowed, _NEVER), self.temperature)
                    for one in similarities
                )
                return {"info_nce": Term((forth + back) / 2)}
            hinges = F.relu(similarities - positive.unsqueeze(1) + self.margin).sum(dim=0) * allowed
            keys = sample_keys(index, first.device, self.seed, self._steps_done)
            chosen = choose_negatives(hinges.detach(), self.negatives, self._progress >= self.hard_from, keys)
            violating = losses.sample_mean((hinges.detach() > 0).sum(dim=1) / allowed.sum(dim=1).clamp_min(1))
            triplet = losses.sample_mean((hinges * chosen).sum(dim=1)) / (2 * self.negatives)
        return {"triplet": Term(triplet), "violating": Term(violating, 0.0)}

    @torch.no_grad()
    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        if self.teacher is not None:
            self.teacher.follow(backbone, self.teacher_momentum)
            self.teacher.follow_statistics(backbone, self.teacher_momentum)
        self._steps_done, self._progress = step, step / steps

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
        """None before the first epoch, when it is not known yet which images there are."""
        return self.graph.pairs(self.weights, self.gap, seed) if self.graph.most_views else None

    def diagnostics(self, labels: Labels | None) -> dict[str, float]:
        pairs = self.links(self.seed)
        return {} if pairs is None or not self._joins_objects else pairs.statistics(labels)


def choose_negatives(hinges: Tensor, count: int, hard: bool, keys: Tensor) -> Tensor:
    """Which of C candidates are the negatives of each pair, `(B, C)`, bool; no more than `count` of those that violate
    the margin.

    Args:
        hinges: by how much each candidate violates it, `(B, C)`, at least 0.
        count: M.
        hard: whether one half of them is drawn among the M with the largest hinges; else all are drawn among all.
        keys: `(B,)`, decide the draws.
    """
    violating, count = hinges > 0, min(count, hinges.shape[1])
    for_hard, for_all = random_bits(keys, 2 * hinges.shape[1]).double().chunk(2, dim=1)
    chosen = torch.zeros_like(violating)
    if hard:
        hardest = torch.zeros_like(violating).scatter_(1, hinges.topk(count, dim=1).indices, True) & violating
        chosen = _drawn(hardest, for_hard, count // 2)
    return chosen | _drawn(violating & ~chosen, for_all, count - count // 2 if hard else count)


def _drawn(among: Tensor, draws: Tensor, count: int) -> Tensor:
    """Those `count` of each row's true entries that have the largest draws, or all where there are fewer."""
    largest = draws.masked_fill(~among, -torch.inf).topk(count, dim=1).indices
    return torch.zeros_like(among).scatter_(1, largest, True) & among


def _of_kinds(weights: Mapping[str, float]) -> tuple[float, float, float]:
    if (unknown := next((name for name in weights if name not in KINDS), None)) is not None:
        raise SettingError("weights", f"no kind of pairs is called {unknown!r}; {suggest(unknown, KINDS)}")
    if any(weight < 0 for weight in weights.values()) or not any(weights.values()):
        raise SettingError("weights", f"must be at least 0, and one above it, got {dict(weights)}")
    intra, inter, transitive = (float(weights.get(name, 0.0)) for name in KINDS)
    return intra, inter, transitive
