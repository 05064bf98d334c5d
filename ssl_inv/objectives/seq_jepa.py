"""seq-JEPA: a sequence of views and the actions between them predict the next view."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, require, require_above, require_at_least, require_between
from ssl_inv.memories.directions import RandomDirections
from ssl_inv.nn import losses
from ssl_inv.nn.aggregator import ActionEncoder, Aggregator, PredictionSpace, RawActions
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.sigreg import sigreg as sigreg_loss
from ssl_inv.nn.teacher import Teacher, cosine_momentum
from ssl_inv.objectives import base
from ssl_inv.objectives.base import ActionPrediction, Aggregation, Losses, Objective, Term
from ssl_inv.transforms import Action, Box, Circle, Convention, Group, Real, Transform
from ssl_inv.views import Plan, Saccades, Views, ViewSequence

Scaling = Literal["constant", "official"]
VECTOR_NAMES = (
    "crop top",
    "crop left",
    "crop height",
    "crop width",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "blur",
)
"""The nine numbers: pixels of the source, factors, turns from -0.5 to 0.5, and the blur's deviation in pixels."""

_NEUTRAL: dict[str, Group] = {
    "crop": Box(),
    "brightness": Real(neutral_value=1.0),
    "contrast": Real(neutral_value=1.0),
    "saturation": Real(neutral_value=1.0),
    "hue": Circle(),
    "blur": Real(),
}
_REACH = (0.8, 0.8, 0.8, 0.2, 2.0)
"""Reach of brightness, contrast, saturation, hue and blur in SimCLR's policy."""

_AUGMENTATION = {name.split()[0] for name in VECTOR_NAMES}
"""The parameters of an augmentation that seq-JEPA's nine numbers hold."""


class SeqJEPA(Objective):
    """seq-JEPA (Ghaemi, Muller, Bakhtiari, NeurIPS 2025).

    For views x_1 .. x_{M+1}, with the action a_i from view i to the next, the backbone f, the moving average f' of its
    parameters, the predictor h and [.; .] for vectors side by side,

        z_i = f(x_i),  e_i = BN(W a_i)
        z_AGG = transformer([AGG], [z_1; e_1], ..., [z_{M-1}; e_{M-1}], [z_M; 0])[AGG]
        L = 1 - mean cos(h([z_AGG; e_M]), f'(x_{M+1})).

    Nothing else keeps features apart: no negatives, no variance term, no projector. According to the paper, z becomes
    equivariant to the actions and z_AGG invariant. `leak/...` in the results measures how far; a short run does not get
    there: after 800 steps on rendered solids the aggregate still holds the last action that it was given. The M
    observed views are normalised as one batch. The target is normalised as another batch by f', which has its own
    running statistics. The momentum rises by the step; in the authors' code by the epoch.

    `anti_collapse: sigreg` needs no teacher, momentum or stop-gradient, as in LeJEPA (`ssl_inv.nn.sigreg.sigreg`). f'
    is then f itself, which learns from the error too. All M + 1 views are one batch for f, and each view is held to a
    normal distribution:

        L = 1 - mean cos(h([z_AGG; e_M]), z_{M+1}) + sigreg_weight mean_i SIGReg(z_i).

    When:
        Several views of each object, with the actions between them, are available in training and in use: the aggregate
        of several views gives the best published classes on 3DIEBench, and the single view an R2 of the rotation above
        SIE's. Also for saccades over plain images. Not where only one view is available in use, since much of the gain
        comes from the others. On augmented photographs its R2 is highest, and its classes are lower than those of
        two-view objectives.

    Args:
        parameters: of the actions between views: `rotation`, with `floor_hue` and `light_hue` for the paper's rotation
            and colour variant; `crop`, `brightness`, `contrast`, `saturation`, `hue` and `blur` of an augmentation;
            `fixation` of saccades.
        observed: M, the views before the target.
        action_dimensions: of an embedded action. With 0 actions are not embedded, but padded with zeros so that the
            number of heads divides the token width.
        layers: of the aggregator.
        heads: of the aggregator's attention.
        dropout: in the aggregator.
        predictor: width of the predictor's hidden layer.
        momentum: of the moving average at the start; it rises to 1 along half a cosine.
        anti_collapse: keeps features from collapsing: the paper's `teacher`, or `sigreg` in its place.
        target: what is predicted, and held to a normal distribution: the `features`, as in the paper, or the features
            `standardised` over the batch. Features behind a ReLU have so much in common that a constant prediction
            scores well at first, and a short run may not get beyond it; with `standardised` it scores nothing. SIGReg
            cannot reach zero on features that are never negative.
        sigreg_weight: of SIGReg.
        directions: number of random directions of SIGReg.
        conditioning: which networks read the actions: `both` aggregator and predictor, one of them, or `none`.
        convention: form of the action vector. `canonical` writes every parameter separately. `seq-jepa` is the authors'
            code: quaternions with the sign of the product, hues as plain differences, and each number of an
            augmentation divided by its norm over all views of the sample. Actions then depend on other views too, the
            target among them.
        action_statistics: batches over which actions are normalised in training. `joint` takes the M actions of all
            samples as one batch. `padded` and `repeated` are the authors' code with two batches: the last actions, and
            the other actions with one further row per sample, which is zeros (`padded`: augmentations, saccades) or the
            last action once more (`repeated`: 3DIEBench).
        initialisation: of the aggregator's layers: `independent`, or `copies` of one, as in the authors' code.
        views: a `sequence` of the data's own views or of augmented ones, or small patches of one image in `saccades`.
        patch: side of a saccade's patches in pixels.
        saliency: where saccades go: `spectral_residual` computes it from the image itself, in place of the paper's
            DeepGaze IIE; or `uniform`.
        inhibition: where a saccade does not return to: a `disc` about each fixation, the authors' code's `square`, or
            `none`.
        radius: of the disc, or half the side of the square, in pixels.
        cutting: `upright` patches lie about their fixations; `official` ones have row and column exchanged, as in the
            authors' code.
    """

    teacher: Teacher | None

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        parameters: list[str] = ["rotation"],
        observed: int = 3,
        action_dimensions: int = 128,
        layers: int = 3,
        heads: int = 4,
        dropout: float = 0.1,
        predictor: int = 1024,
        momentum: float = 0.996,
        anti_collapse: Literal["teacher", "sigreg"] = "teacher",
        target: Literal["features", "standardised"] = "features",
        sigreg_weight: float = 0.02,
        directions: int = 1024,
        conditioning: Literal["both", "aggregator", "predictor", "none"] = "both",
        convention: Literal["canonical", "seq-jepa"] = "canonical",
        action_statistics: Literal["joint", "padded", "repeated"] = "joint",
        initialisation: Literal["independent", "copies"] = "independent",
        views: Literal["sequence", "saccades"] = "sequence",
        patch: int = 32,
        saliency: Literal["spectral_residual", "uniform"] = "spectral_residual",
        inhibition: Literal["disc", "square", "none"] = "disc",
        radius: int = 16,
        cutting: Literal["upright", "official"] = "upright",
    ) -> None:
        super().__init__()
        require_between(0, 1, momentum=momentum)
        require(0 <= dropout < 1, "dropout", f"must be at least 0 and below 1, got {dropout}")
        require_at_least(1, observed=observed, layers=layers, heads=heads, predictor=predictor)
        require_at_least(2, patch=patch)
        require_at_least(0, radius=radius)
        require_at_least(0, action_dimensions=action_dimensions)
        given = conditioning != "aggregator" or observed > 1
        require(given, "conditioning", "'aggregator', but observed is 1: no action to give it")
        require_above(0, sigreg_weight=sigreg_weight)
        of_teacher: dict[str, tuple[object, object]] = {"momentum": (momentum, 0.996)}
        of_sigreg: dict[str, tuple[object, object]] = {
            "sigreg_weight": (sigreg_weight, 0.02),
            "directions": (directions, 1024),
        }
        idle, owner = (
            (of_sigreg, "only SIGReg has it") if anti_collapse == "teacher" else (of_teacher, "only a teacher has it")
        )
        _require_usual(idle, f"anti_collapse is {anti_collapse!r}", owner)
        named = bool(parameters) or conditioning == "none"
        require(named, "parameters", "is empty; name some, or set conditioning to 'none'")
        saccades = Saccades(observed, patch, saliency, inhibition, radius, cutting)
        self._plan = saccades if views == "saccades" else _sequence(saccades)
        self.parameters_used = parameters if conditioning != "none" else []
        self.convention: Convention = convention
        self.momentum, self.sigreg_weight = momentum, sigreg_weight
        self.predictor_is_told = conditioning in ("both", "predictor")
        self.actions_of_two_views = convention == "canonical" or not _AUGMENTATION & set(self.parameters_used)
        """Whether an action depends only on its own two views, and so has a meaning beyond its sample."""
        if parameters:  # with conditioning 'none' too: a misspelt name is an error all the same
            length = base.action_dimensions({**groups, **self._plan.groups}, parameters, convention)
        self.action_encoder: ActionEncoder | RawActions = RawActions(0)
        if self.parameters_used:
            raw = RawActions(length, features, heads)
            embedded = ActionEncoder(length, action_dimensions, action_statistics) if action_dimensions else raw
            self.action_encoder = embedded
        action = self.action_encoder.width
        told = action if conditioning in ("both", "aggregator") else 0
        self.aggregator = Aggregator(features, told, layers, heads, dropout, initialisation)
        self.prediction_head = nn.Sequential(
            nn.Linear(features + told + action * self.predictor_is_told, predictor, bias=False),
            nn.BatchNorm1d(predictor),
            nn.ReLU(inplace=True),
            nn.Linear(predictor, features),
        )
        self.space = PredictionSpace(features, target == "standardised")
        self.directions = RandomDirections(directions) if anti_collapse == "sigreg" else None

    @property
    def plan(self) -> Plan:
        return self._plan

    def adopt(self, backbone: Backbone) -> None:
        self.teacher = Teacher(backbone) if self.directions is None else None

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        if self.teacher is not None:
            self.teacher.follow(backbone, cosine_momentum(self.momentum, step - 1, steps))
        if self.directions is not None:
            self.directions.advance(step)

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        *observed, target = (view.pixels for view in views.views)
        actions = target.new_empty(len(target), len(observed), 0)
        if self.parameters_used:
            actions = action_vectors([view.transform for view in views.views], self.parameters_used, self.convention)
        if self.teacher is not None:
            features = backbone(torch.cat(observed)).unflatten(0, (len(observed), -1))
            return self.sequence_loss(features.transpose(0, 1), actions, self.space(self.teacher(target)))
        features = backbone(torch.cat([*observed, target]))
        embeddings = self.space(features).unflatten(0, (len(views), -1))
        features = features.unflatten(0, (len(views), -1))[:-1]
        terms = self.sequence_loss(features.transpose(0, 1), actions, embeddings[-1])
        assert self.directions is not None
        return {**terms, "sigreg": Term(sigreg_loss(embeddings, self.directions(embeddings)), self.sigreg_weight)}

    def sequence_loss(self, features: Tensor, actions: Tensor, target: Tensor) -> Losses:
        """The term of the prediction.

        Args:
            features: of the observed views, `(B, M, D)`.
            actions: from each view to the next; the last one leads to the target, `(B, M, K)`.
            target: what is predicted for the target, `(B, D)`.
        """
        predicted = self.predict(features, self.action_encoder(actions))
        return {"prediction": Term(losses.cosine_distance(predicted, target))}

    def predict(self, features: Tensor, embedded: Tensor) -> Tensor:
        """The prediction `(B, D)` for the view to which the last of the embedded actions leads.

        Args:
            features: of M views, `(B, M, D)`.
            embedded: actions from each view to the next, and last the one to predict along, `(B, M, A)`.
        """
        aggregate = self.aggregator(features, embedded[:, :-1])
        known = torch.cat((aggregate, embedded[:, -1]), dim=1) if self.predictor_is_told else aggregate
        return self.prediction_head(known)  # type: ignore[no-any-return]

    def predictor(self, backbone: Backbone) -> ActionPrediction | None:
        """The prediction from one observed view; embeddings are what the objective predicts, features or standardised
        features.
        """
        if not (self.predictor_is_told and self.actions_of_two_views):
            return None

        def move(embedding: Tensor, action: Tensor) -> Tensor:
            features = self.space.features(embedding)
            return self.predict(features.unsqueeze(1), self.action_encoder.embed(action.unsqueeze(1)))

        def encode(pixels: Tensor) -> Tensor:
            return self.space(backbone(pixels))  # type: ignore[no-any-return]

        return ActionPrediction(encode, move, self.parameters_used, self.convention)

    def aggregation(self, backbone: Backbone) -> Aggregation | None:
        """z_AGG, for any number of views."""
        if not self.actions_of_two_views:
            return None

        def aggregate(features: Tensor, actions: Sequence[Action]) -> Tensor:
            embedded = features.new_empty(len(features), 0, self.action_encoder.width)
            if actions and self.parameters_used:
                vectors = [action.as_vector(self.parameters_used, self.convention) for action in actions]
                embedded = self.action_encoder.embed(torch.stack(vectors, dim=1))
            return self.aggregator(features, embedded)  # type: ignore[no-any-return]

        return aggregate


def action_vectors(transforms: Sequence[Transform], parameters: list[str], convention: Convention) -> Tensor:
    """The actions from each view of a sample to the next, `(B, V - 1, K)`.

    Args:
        transforms: of the V views, B rows each.
        parameters: of the actions, in this order; `seq-jepa` puts the parameters of an augmentation last.
        convention: `canonical`, or `seq-jepa`, which writes parameters of an augmentation as `seq_jepa_actions` does
            for `official`.
    """
    steps = [here.only(parameters).relative(there) for here, there in pairwise(transforms)]
    others = [name for name in parameters if convention == "canonical" or name not in _AUGMENTATION]
    augmentation = [
        number for number, name in enumerate(VECTOR_NAMES) if name.split()[0] in set(parameters) - set(others)
    ]
    vectors = []
    if others:
        vectors.append(torch.stack([step.as_vector(others, convention) for step in steps], dim=1))
    if augmentation:
        # The image's size cancels: a number divided by its norm over the views has no unit.
        nine = torch.stack([seq_jepa_vector(transform, (1, 1)) for transform in transforms], dim=1)
        vectors.append(seq_jepa_actions(nine, (1, 1), "official")[..., augmentation])
    return torch.cat(vectors, dim=-1)


def _sequence(saccades: Saccades) -> ViewSequence:
    """The plan of as many whole views.

    Raises:
        ValueError: if a setting of saccades is given.
    """
    usual = Saccades(saccades.observed, saliency="spectral_residual")
    names = "patch", "saliency", "inhibition", "radius", "cutting"
    given = {name: (getattr(saccades, name), getattr(usual, name)) for name in names}
    _require_usual(given, "views is 'sequence'", "only saccades have it")
    return ViewSequence(saccades.observed)


def _require_usual(settings: Mapping[str, tuple[object, object]], choice: str, owner: str) -> None:
    """Raise a `SettingError` if a setting, (value, default) by name, is given that has no effect with a choice."""
    for name, (value, usual) in settings.items():
        require(value == usual, name, f"{value!r}, but {choice}; {owner}")


def seq_jepa_vector(transform: Transform, size_of_source: tuple[int, int]) -> Tensor:
    """Each view's augmentation as seq-JEPA writes it, `(B, 9)`; see `VECTOR_NAMES`.

    As in seq-JEPA, the vector leaves out flips, grey, solarising and the order of the jitter. Parameters that the
    augmentation does not record are neutral.

    Args:
        transform: of the views.
        size_of_source: height and width of the images before the crop, in pixels.

    Raises:
        ValueError: if the augmentation records none of the nine.
    """
    known = transform.only([name for name in _NEUTRAL if name in transform.values])
    if not known.names:
        raise SettingError("views", "have no augmentation vector: they record neither crop nor colour jitter nor blur")
    missing = {
        name: group.neutral(len(known)).to(known[known.names[0]])
        for name, group in _NEUTRAL.items()
        if name not in known.values
    }
    values = {**known.values, **missing}
    x, y, width, height = values["crop"].unbind(1)
    hue = torch.remainder(values["hue"] + 0.5, 1.0) - 0.5
    rows, columns = size_of_source
    crop = [(y - height / 2) * rows, (x - width / 2) * columns, height * rows, width * columns]
    return torch.stack(
        (*crop, values["brightness"], values["contrast"], values["saturation"], hue, values["blur"]), dim=1
    )


def seq_jepa_actions(vectors: Tensor, size_of_source: tuple[int, int], scaling: Scaling = "constant") -> Tensor:
    """The steps from each view to the next, `(B, V - 1, 9)`.

    Args:
        vectors: of the views of each sample, in the order of the sequence, `(B, V, 9)`.
        size_of_source: height and width of the images, in pixels.
        scaling: `constant` divides by the image's sides and by the reach of SimCLR's policy, and takes the shorter way
            from hue to hue. `official` is the authors' code: every number is divided by its norm over all views of the
            sample, so an action depends on other views too, the target among them.

    Raises:
        ValueError: if no scaling has that name.
    """
    if scaling == "official":
        return torch.nn.functional.normalize(vectors, dim=1).diff(dim=1)
    if scaling != "constant":
        raise ValueError(f"no scaling is called {scaling!r}; there are constant and official")
    steps = vectors.diff(dim=1)
    turns = torch.remainder(steps[..., 7:8] + 0.5, 1.0) - 0.5
    rows, columns = size_of_source
    return torch.cat((steps[..., :7], turns, steps[..., 8:]), dim=-1) / steps.new_tensor(
        (rows, columns, rows, columns, *_REACH)
    )
