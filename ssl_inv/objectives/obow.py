"""OBoW: predict from a crop the visual words that a moving average of the network finds in the whole image."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, require, require_above, require_at_least, require_between
from ssl_inv.memories.progress import Progress
from ssl_inv.memories.vocabulary import VisualWords, perplexity
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import DynamicHead
from ssl_inv.nn.teacher import Teacher, cosine_momentum
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.objectives.multi_crop import area_range, by_crop
from ssl_inv.transforms import Group, keyed_random
from ssl_inv.views import Crops, MultiCrop, Patches, Plan, Several, Views


class OBoW(Progress, Objective):
    """Online bags of visual words (Gidaris et al., CVPR 2021, eq. 1 to 6), as the authors' code computes it.

    The teacher's feature map of the whole image, barely augmented, becomes a bag of visual words. Every position u is
    assigned softly to the K words v_k, and the largest assignment counts:

        y_k = max_u softmax_k(- (inverse_delta / m) |t_u - v_k|^2) / sum of these over k,

    with m a moving average of the mean squared distance from the nearest word. The student predicts y from crops of the
    image:

        L = sum over kinds of crops of mean over levels, images and crops of KL(y || softmax(kappa W(V) s)),

    where W(V) is a classifier that a small network makes from the words, and s is the pooled feature, not normalised.
    Words are features of the latest K images, one of each, at a random position. Each of the last `levels` stages has
    its own words and classifier. The teacher is a moving average of the backbone's parameters and normalises by its own
    batches. Student and targets use the words from before the step.

    Crops of one kind go through the student together. The record holds, with weight 0, two perplexities of the last
    stage's bags: the number of words that the bag of one image spreads over, and the bags of all images together.
    Differences from the authors' code: K need not be a multiple of the batch; the teacher moves after the step, which
    gives the same teacher; the teacher has no dropout; schedules advance by the step, not by the epoch; no linear
    classifier is trained beside. `levels: 1, patches: 0, crops: 1` is the authors' vanilla form, and `augmentation:
    {name: obow}` has their policies for the teacher, crops and patches.

    When:
        Features for classes, detection and few labels on plain images, with small batches and short training, from
        convolutional networks. No record of views is needed. Not for images so small that maps have only a few
        positions. Not where features must tell how an image was seen. Few words give more invariance, many keep more
        detail.

    Args:
        levels: number of the network's last stages whose bags are predicted.
        vocabulary: K, words of each level. The queue holds as many images: at least some eight batches, and fewer than
            the data has.
        assignment: `soft` as above; with `hard` each position counts for its nearest word only.
        inverse_delta: sharpness of the soft assignment; the authors have 15 for ResNet-50, 10 for ResNet-18.
        pooling: over positions, `max` or `mean`.
        words: source of a word: a `local_average` over a window, one feature with `no_averaging`, or the
            `global_average`.
        window: side of the local average's window, in positions.
        border: positions dropped at each side of a map, since they have seen padding; 0 for maps of a few positions.
        distance_momentum: of m, in each batch.
        first_distance: m before the first batch. None begins with the first batch's distance and takes the mean of all
            batches until the moving average is as long. The authors' 0.5 is not adapted to the network and
            makes hundreds of steps too hard or too soft.
        warm_start: whether the first batch fills the vocabulary before the first step, with several features of each
            image and, where these are too few, with mixtures of them. The authors' random words last for K / batch
            steps.
        word_seed: of the positions that words are taken from, with the step, the sample and the level.
        kappa: multiplies logits; the authors have 8 for ResNet-50, 5 for ResNet-18.
        learn_kappa: whether kappa is learnt, one for each level.
        momentum: of the teacher in the first step; it rises to 1 along half a cosine.
        centre: share of the image's sides that the teacher sees; its view has the augmentation's size.
        crops: number of crops of each image, for the student.
        crop_size: side of crops in pixels.
        crop_scale: smallest and largest share of the image's area that a crop takes.
        patches: number of patches of each image, for the student, cut from one large view; 0 for none.
        patch_size: side of patches in pixels.
        patch_view: side of the large view in pixels.
        patch_scale: smallest and largest share of the image's area that the large view takes.
        patch_grid: number of patches along each side of the large view; some of them are taken.
        patch_jitter: largest shift of a patch in pixels.
    """

    teacher: Teacher
    words: nn.ModuleList
    heads: nn.ModuleList

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        levels: int = 2,
        vocabulary: int = 8192,
        assignment: Literal["soft", "hard"] = "soft",
        inverse_delta: float = 15.0,
        pooling: Literal["max", "mean"] = "max",
        words: Literal["local_average", "no_averaging", "global_average"] = "local_average",
        window: int = 3,
        border: int = 1,
        distance_momentum: float = 0.99,
        first_distance: float | None = 0.5,
        warm_start: bool = False,
        word_seed: int = 0,
        kappa: float = 8.0,
        learn_kappa: bool = False,
        momentum: float = 0.99,
        centre: float = 0.875,
        crops: int = 2,
        crop_size: int = 160,
        crop_scale: list[float] = [0.08, 0.6],
        patches: int = 5,
        patch_size: int = 96,
        patch_view: int = 256,
        patch_scale: list[float] = [0.6, 1.0],
        patch_grid: int = 3,
        patch_jitter: int = 24,
    ) -> None:
        super().__init__()
        require_at_least(1, levels=levels)
        require_above(0, kappa=kappa)
        require_between(0, 1, momentum=momentum)
        require_at_least(0, crops=crops, patches=patches, patch_jitter=patch_jitter)
        require_at_least(1, crop_size=crop_size, patch_size=patch_size, patch_grid=patch_grid)
        if crops + patches < 1:
            raise ValueError(f"crops and patches must make at least one view, got {crops} and {patches}")
        self.levels, self.momentum, self.warm_start, self.word_seed = levels, momentum, warm_start, word_seed
        self._kinds: dict[str, Plan] = {}
        if crops:
            self._kinds["crops"] = MultiCrop((Crops(crops, crop_size, area_range("crop_scale", crop_scale)),))
        if patches:
            require_at_least(patch_size + patch_jitter, patch_view=patch_view)
            problem = (
                f"{patches}, but a grid of {patch_grid} x {patch_grid} has {patch_grid**2}; make patch_grid larger"
            )
            require(patches <= patch_grid**2, "patches", problem)
            scale = area_range("patch_scale", patch_scale)
            self._kinds["patches"] = Patches(patch_view, patch_size, patch_grid, patch_jitter, patches, scale)
        self._centre = Crops(1, centre=centre)
        self._word_settings: dict[str, Any] = {
            "count": vocabulary,
            "inverse_delta": inverse_delta if assignment == "soft" else None,
            "pooling": pooling,
            "making": words,
            "border": border,
            "window": window,
            "distance_momentum": distance_momentum,
            "first_distance": first_distance,
        }
        self._head_settings: dict[str, Any] = {"features": features, "kappa": kappa, "learn_kappa": learn_kappa}

    @property
    def plan(self) -> Several:
        policies = {"crops": 1, "patches": 2}
        return Several(
            (MultiCrop((self._centre,)), *self._kinds.values()), (0, *(policies[kind] for kind in self._kinds))
        )

    def adopt(self, backbone: Backbone) -> None:
        self.teacher = Teacher(LastMaps(backbone, self.levels))
        channels = channels_of_last_maps(backbone, self.levels)
        self.words = nn.ModuleList(VisualWords(one, **self._word_settings) for one in channels)
        self.heads = nn.ModuleList(DynamicHead(one, **self._head_settings) for one in channels)

    def require_size(self, backbone: Backbone, size: int) -> None:
        pixels = torch.zeros(1, backbone.in_channels, size, size)
        for words, maps in zip(self.words, self.teacher(pixels), strict=True):
            assert isinstance(words, VisualWords)
            words.require_fit(maps)

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        seen, *kinds = self.plan.parts(views)
        classifiers, bags = self._targets(self.teacher(seen[0].pixels), views.index)
        terms = {}
        for kind, some in zip(self._kinds, kinds, strict=True):
            features = by_crop(backbone(torch.cat([view.pixels for view in some.views])), len(some))
            levels = zip(self.heads, classifiers, bags, strict=True)
            errors = [divergence(head(features, classifier), level) for head, classifier, level in levels]
            terms[kind] = Term(torch.stack(errors).mean())
        return {**terms, **spread(bags[-1])}

    def _targets(self, maps: Sequence[Tensor], index: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """A classifier, `(K, features)`, and the bags, `(B, K)`, of each level, by the words from before this batch."""
        classifiers, bags = [], []
        for level, (words, head, one) in enumerate(zip(self.words, self.heads, maps, strict=True)):
            assert isinstance(words, VisualWords)
            assert isinstance(head, DynamicHead)
            draws = torch.from_numpy(
                keyed_random.uniform(self.word_seed, self.steps_done, index.numpy(), level, count=1)[:, 0]
            )
            draws = draws.to(one.device, torch.float32, non_blocking=True)
            if self.warm_start and self.steps_done == 0 and not words.waits:
                words.fill(one, draws)
            classifiers.append(head.classifier(words.words))
            bags.append(words(one, draws))
        return classifiers, bags

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        self.teacher.follow(backbone, cosine_momentum(self.momentum, step, steps))
        for words in self.words:
            assert isinstance(words, VisualWords)
            words.flush()
        self.advance(step, steps)


class LastMaps(nn.Module):
    """The feature maps of a network's last stages.

    Args:
        backbone: the network.
        levels: number of stages.
    """

    def __init__(self, backbone: Backbone, levels: int) -> None:
        super().__init__()
        self.backbone, self.levels = backbone, levels

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Maps `(B, C, h, w)`; the last stage's map is last."""
        if self.levels == 1:
            return [self.backbone.feature_map(pixels)]
        return self.backbone.stage_maps(pixels, self.levels)


def channels_of_last_maps(backbone: Backbone, levels: int) -> list[int]:
    """The channels of each map of `LastMaps`.

    Raises:
        ValueError: if the network has fewer stages with feature maps.
    """
    if levels == 1:
        problem = f"1, but {backbone.architecture} gives tokens; choose more levels or a convolutional network"
        require(not hasattr(backbone.model, "num_prefix_tokens"), "levels", problem)
        return [backbone.channels]
    stages = backbone.stage_channels()
    if len(stages) < levels:
        raise SettingError(
            "levels", f"{levels}, but {backbone.architecture} gives the feature maps of {len(stages) or 1} stage(s)"
        )
    return stages[-levels:]


def divergence(logits: Tensor, bags: Tensor) -> Tensor:
    """Mean over crops and samples of KL(bag || softmax(logits)).

    Args:
        logits: of S crops, `(S, B, K)`.
        bags: the targets, `(B, K)`.
    """
    cross_entropy = losses.distillation(logits, bags.unsqueeze(0), 1.0).mean()
    return cross_entropy - losses.sample_mean(torch.special.entr(bags).sum(dim=1))


def spread(bags: Tensor) -> dict[str, Term]:
    """Terms of weight 0 for bags `(B, K)`: the number of words over which one image's bag spreads, and all images'
    bags.
    """
    every = losses.sample_mean(bags)
    return {
        "words_per_image": Term(losses.sample_mean(perplexity(bags)), 0.0),
        "words_per_batch": Term(perplexity(every), 0.0),
    }
