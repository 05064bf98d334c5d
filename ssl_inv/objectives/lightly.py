"""Losses of lightly: any loss of the library lightly, with its usual head, on any number of processes."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, require, require_above, require_at_least, require_between
from ssl_inv.memories.queue import Queue
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.lightly_parts import last_layer, losses, make_head, make_loss, make_module, width_of
from ssl_inv.nn.lightly_table import PATCH_CALLS, PLACE_CALLS, Kind, kind_of
from ssl_inv.nn.teacher import Teacher
from ssl_inv.nn.tokens import require_patch_tokens
from ssl_inv.objectives.base import ActionPrediction, action_dimensions
from ssl_inv.objectives.lightly_calls import CALLS, NEEDS_PATCHES, Called
from ssl_inv.objectives.lightly_dense import DENSE_CALLS, require_positions
from ssl_inv.objectives.multi_crop import area_range, require_shares_of_steps
from ssl_inv.transforms import Group
from ssl_inv.views import Crops, MultiCrop, Pair, Plan, ViewSequence


class Lightly(Called):
    """A loss of the library lightly (Susmelj et al., lightly, 2020), called as its documentation says.

    With h lightly's head, g its predictor, f' a teacher, and z_v = h(f(x_v)) of view v, the loss is one of

        L(z_1, z_2),  L(z_1, h'(f'(x_2))),  L(g(z_1), z_2),  L([z_1, ..., z_V]),  L([z_1, ...], [h'(f'(x_1)), ...]), ...

    as docs/lightly.md lists for each class, with head, predictor, teacher, prototypes, masks and number of views. What
    the loss is given is of the samples of all processes, so loss and gradient are those of one process; lightly's own
    `gather_distributed` is off by default, and right for some losses only. Memory banks, centres and TiCo's covariance
    are saved with the run. Random directions, slices and permutations depend on seed and step alone. Momentum rises to
    1 along lightly's cosine schedule, by the step.

    LeWMLoss stops the gradient at the target of the prediction; the authors' code and text (arXiv 2603.19312) do not.
    Here the target has its gradient. The order of its views, and the actions between them, are those of the data.

    When:
        To use a loss that has no objective of its own here, or to compare with lightly on equal data, networks and
        evaluation. Where an objective of its own exists, it has the authors' settings and is compared with their
        numbers: docs/lightly.md says which. Only LeWMLoss learns how an image was seen.

    Args:
        loss: a class of `lightly.loss`.
        settings: of that class, and of its call: `target_sharpen_temperature` of MSN, `visible_loss_weight` of iBOT++.
            `memory_bank_size` may be a number of vectors.
        head: a class of `lightly.models.modules.heads`, such as `SimCLRProjectionHead`; null is the usual one of the
            loss, and `none` gives the loss the features themselves.
        head_settings: of the head, such as `{hidden_dim: 512, output_dim: 128}`.
        dense_head_settings: of the head on the positions of maps, VicRegLLocalProjectionHead, of VICRegLLoss.
        regions: of the losses of DetCon, along each side of a grid over the image; the paper's spatial heuristic.
        predictor: a prediction head of lightly; null is the usual one of the loss, if it has one.
        predictor_settings: of the predictor.
        views: whole views of a sample; null is the usual number.
        local_crops: small crops of a sample; null is the usual number.
        local_size: side of local crops in pixels.
        local_scale: smallest and largest share of the image's area that a local crop takes.
        momentum: of the teacher in the first step; null is the usual 0.996, or no teacher where that is usual. A
            momentum makes BYOL of NegativeCosineSimilarity.
        prototypes: of SwaVLoss, MSNLoss and PMSNLoss; null is lightly's number. Those of DINO and iBOT are the
            `output_dim` of their head.
        frozen_prototypes: share of all steps in which the prototypes are frozen, also those of DINO and iBOT.
        queue: of SwaVLoss, embeddings of earlier batches for each whole view, used once it is full; 0 for none.
        masked: share of the patches that the student does not see; null is usual.
        warmup_temperature: divides the teacher's logits in the first step, of DINO and iBOT.
        temperature_warmup: share of all steps in which the teacher's temperature changes linearly from that to the
            `teacher_temp` of the settings; 0 for none.
        actions: recorded parameters that the predictor of LeWMLoss is told, such as `[rotation]`.
        seed: of masks, random directions and permutations, with the step.
    """

    calls = {**CALLS, **DENSE_CALLS}  # noqa: RUF012 - never changed

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        loss: str = "NTXentLoss",
        settings: dict[str, Any] = {},
        head: str | None = None,
        head_settings: dict[str, Any] = {},
        dense_head_settings: dict[str, Any] = {},
        regions: int = 5,
        predictor: str | None = None,
        predictor_settings: dict[str, Any] = {},
        views: int | None = None,
        local_crops: int | None = None,
        local_size: int = 96,
        local_scale: list[float] = [0.05, 0.4],
        momentum: float | None = None,
        prototypes: int | None = None,
        frozen_prototypes: float = 0.0,
        queue: int = 0,
        masked: float | None = None,
        warmup_temperature: float = 0.04,
        temperature_warmup: float = 0.0,
        actions: list[str] = [],
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_at_least(1, local_size=local_size, regions=regions)
        require_at_least(0, queue=queue)
        require_above(0, warmup_temperature=warmup_temperature)
        require_shares_of_steps(frozen_prototypes=frozen_prototypes, temperature_warmup=temperature_warmup)
        scale = area_range("local_scale", local_scale)
        chosen = {"views": views, "local_crops": local_crops, "prototypes": prototypes, "masked": masked}
        self.kind = _chosen_kind(loss, settings, momentum, chosen)
        require(loss in losses(), "loss", f"the installed lightly has no {loss}; a newer one has it")
        self.loss_name, self.features, self.seed = loss, features, seed
        self.masked = self.kind.masked or 0.0
        require(not queue or self.kind.queue, "queue", f"{queue}, but {loss} has no queue here")
        warms = self.kind.teacher_temperature or not temperature_warmup
        require(warms, "temperature_warmup", f"{temperature_warmup}, but {loss} has no teacher's temperature")
        self.temperatures, self.frozen_prototypes = (warmup_temperature, temperature_warmup), frozen_prototypes
        self.crops = _plan(self.kind, local_size, scale)
        self.passed = {name: settings.get(name, usual) for name, usual in self.kind.passed.items()}
        _require_numbers(self.passed)
        own = {name: value for name, value in settings.items() if name not in self.kind.passed}
        self.head = self._head(head, head_settings)
        self.loss_width = width = width_of(self.head, features, "head")
        self.loss_function = make_loss(loss, self.kind, own, width)
        # W-MSE whitens that many samples together.
        self.least_batch = max(2, int(getattr(self.loss_function, "w_size", 2)))
        self._add_prototypes(width, queue)
        self._add_dense_head(groups, dense_head_settings, regions)
        self._add_predictor(groups, predictor, predictor_settings, actions, width)
        freezes = not frozen_prototypes or bool(list(self.frozen_parameters()))
        require(freezes, "frozen_prototypes", f"{frozen_prototypes}, but {loss} has no prototypes here")

    def _head(self, name: str | None, settings: dict[str, Any]) -> nn.Module:
        named = self.kind.head if name is None else None if name == "none" else name
        if named is None:
            require(not settings, "head_settings", f"{settings}, but there is no head")
            needed = self.kind.call not in ("masked patches", "all patches", "clusters of patches")
            require(needed, "head", f"none, but {self.loss_name} compares the logits of a head")
            return nn.Identity()
        usual = {**self.kind.head_settings, **settings} if named == self.kind.head else settings
        fixed: dict[str, Any] = {}
        if self.kind.call == "clusters of patches":
            require(named == self.kind.head, "head", f"must be {self.kind.head} for {self.loss_name}, got {named!r}")
            clusters = {"num_clusters": settings["num_clusters"]} if "num_clusters" in settings else {}
            self.cluster_head = make_head(named, "head", clusters, self.features, bias=True)
            fixed = {"weight_norm": True, "bias": False}
        return make_head(named, "head", usual, self.features, **fixed)

    def _add_dense_head(self, groups: Mapping[str, Group], settings: dict[str, Any], regions: int) -> None:
        self.regions = regions
        if self.kind.call in PLACE_CALLS:
            require_positions(groups, self.loss_name)
        if self.kind.call == "maps and positions":
            usual = {"hidden_dim": 512, "output_dim": 512, **settings}
            self.dense_head = make_head("VicRegLLocalProjectionHead", "dense_head", usual, self.features)
        else:
            require(not settings, "dense_head_settings", f"{settings}, but {self.loss_name} has no head on positions")

    def _add_prototypes(self, width: int, queue: int) -> None:
        count = self.kind.prototypes
        if self.kind.call == "prototypes of crops":
            from lightly.models.modules.heads import SwaVPrototypes

            assert count is not None
            self.prototypes = SwaVPrototypes(width, count)
            self._normalise_prototypes()
        elif count is not None:
            self.prototypes = nn.Linear(width, count, bias=False)
        self.queues = nn.ModuleList(Queue(queue, width) for _ in range(self.kind.views if queue else 0))

    def _normalise_prototypes(self) -> None:
        if self.kind.call == "prototypes of crops":
            with torch.no_grad():
                for head in self.prototypes.heads:  # type: ignore[union-attr]
                    head.weight.copy_(F.normalize(head.weight, dim=1))

    def _add_predictor(
        self,
        groups: Mapping[str, Group],
        name: str | None,
        settings: dict[str, Any],
        actions: list[str],
        width: int,
    ) -> None:
        usual = self.kind.predictor
        require(usual is not None or name is None, "predictor", f"{name!r}, but {self.loss_name} has no predictor")
        require(usual is not None or not settings, "predictor_settings", f"{self.loss_name} has no predictor")
        told = self.kind.call == "frames and actions"
        require(told or not actions, "actions", f"{actions}, but the predictor of {self.loss_name} is told none")
        self.actions = self.parameters_used = actions
        self._predictor_settings = settings
        if told:
            self._add_dynamics(groups, name, settings, width)
        elif self.kind.call in ("predictions and keys", "predicted regions"):
            named = name or usual
            assert named is not None
            self.predictor_network = make_head(named, "predictor", settings, width, output_dim=width)
            width_of(self.predictor_network, width, "predictor")
        elif usual is not None:  # CAPI's, which needs the grid of patches
            require(name in (None, usual), "predictor", f"must be {usual} for {self.loss_name}, got {name!r}")

    def _add_dynamics(
        self, groups: Mapping[str, Group], name: str | None, settings: dict[str, Any], width: int
    ) -> None:
        from lightly.models.modules.world_model import ActionEncoder, LatentDynamicsPredictor

        usual = self.kind.predictor
        require(name in (None, usual), "predictor", f"must be {usual} for {self.loss_name}, got {name!r}")
        try:
            length = action_dimensions(groups, self.actions, "canonical")
        except SettingError as error:
            raise SettingError("actions", error.problem) from None
        self.action_network = ActionEncoder(action_dim=length, output_dim=width)
        sizes = {"hidden_dim": 384, "depth": 6, "num_heads": 6, **settings}
        fixed = {"num_frames": self.kind.views - 1, "input_dim": width}
        self.predictor_network = make_module(LatentDynamicsPredictor, "predictor_settings", sizes, fixed)

    @property
    def plan(self) -> Plan:
        return self.crops

    def adopt(self, backbone: Backbone) -> None:
        model: Any = backbone.model
        if self.kind.call == "clusters of patches":
            require_patch_tokens(backbone, self.loss_name)
        elif self.kind.call in NEEDS_PATCHES and self.masked:
            has = all(getattr(model, name, None) is not None for name in ("num_prefix_tokens", "patch_embed"))
            problem = f"{self.loss_name} hides patches, and {backbone.architecture} has none; choose a vit as backbone"
            without = "" if self.kind.call in PATCH_CALLS else ", or masked: 0"
            require(has, "loss", problem + without)
            drops = not isinstance(getattr(model, "patch_drop", nn.Identity()), nn.Identity)
            require(not drops, "loss", f"{self.loss_name} hides patches; leave the backbone's patch_drop_rate at 0")
        if self.kind.call in PLACE_CALLS:
            wide = backbone.channels
            problem = f"{self.loss_name} needs a map as wide as the features, {self.features}, not {wide}"
            require(wide == self.features, "loss", problem)
        if self.kind.call in PATCH_CALLS:
            wide = int(model.embed_dim)
            require(wide == self.features, "loss", f"{self.loss_name} needs whole tokens, {wide} numbers, not a part")
            if self.kind.call != "clusters of patches":
                self.mask_token = nn.Parameter(torch.zeros(wide))
        if self.kind.call == "clusters of patches":
            self._add_patch_predictor(model)
        self.teacher = None if self.kind.momentum is None else Teacher(self._network(backbone))

    def _add_patch_predictor(self, model: Any) -> None:
        from lightly.models.modules import CAPIPredictorTIMM

        given = {"num_heads": int(model.blocks[0].attn.num_heads), **self._predictor_settings}
        fixed = {"embed_dim": self.features, "grid_size": tuple(model.patch_embed.grid_size)}
        self.predictor_network = make_module(CAPIPredictorTIMM, "predictor_settings", given, fixed)

    def _network(self, backbone: Backbone) -> nn.Module:
        # The head of CAPI's teacher is trained, and follows nothing.
        return nn.Sequential(backbone, nn.Identity() if self.kind.call == "clusters of patches" else self.head)

    def frozen_parameters(self) -> Iterable[nn.Parameter]:
        """The parameters of the prototypes."""
        return self.prototypes.parameters() if self.kind.prototypes is not None else last_layer(self.head)

    def held(self, step: int, steps: int) -> Iterable[nn.Parameter]:
        frozen = (step - 1) / steps < self.frozen_prototypes
        return [one for one in self.frozen_parameters() if one.requires_grad] if frozen else ()

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        from lightly.utils.scheduler import cosine_schedule

        if self.teacher is not None:
            assert self.kind.momentum is not None
            momentum = cosine_schedule(step - 1, steps, self.kind.momentum, 1.0)
            self.teacher.follow(self._network(backbone), momentum)
        self._normalise_prototypes()
        for queue in self.queues:
            assert isinstance(queue, Queue)
            queue.flush()
        self.advance(step, steps)

    def predictor(self, backbone: Backbone) -> ActionPrediction | None:
        """LeWM's prediction from one view, in the space of its head."""
        if self.kind.call != "frames and actions":
            return None

        def move(embedding: Tensor, action: Tensor) -> Tensor:
            embedded = self.action_network(action.unsqueeze(1).to(embedding.dtype))
            return self.predictor_network(embedding.unsqueeze(1), action_emb=embedded)[:, -1]  # type: ignore[no-any-return]

        return ActionPrediction(lambda pixels: self.head(backbone(pixels)), move, self.actions, "canonical")


def _chosen_kind(loss: str, settings: dict[str, Any], momentum: float | None, chosen: dict[str, Any]) -> Kind:
    """How the loss is called with the settings that are given; `chosen` are None or replace what is usual."""
    least = {"views": 1, "local_crops": 0, "prototypes": 2}
    for name, bound in least.items():
        if chosen[name] is not None:
            require_at_least(bound, **{name: chosen[name]})
    if momentum is not None:
        require_between(0, 1, momentum=momentum)
    if (share := chosen["masked"]) is not None:
        require(0 <= share < 1, "masked", f"must be a share of the patches from 0 to below 1, got {share}")
    kind = kind_of(loss, settings, momentum)
    given = {**chosen, "momentum": momentum}
    what = {
        "local_crops": "takes no local crops",
        "prototypes": "has no prototypes of that name",
        "masked": "hides no patches",
        "momentum": "has no teacher",
    }
    for name, problem in what.items():
        require(given[name] is None or getattr(kind, name) is not None, name, f"{given[name]}, but {loss} {problem}")
    kind = replace(kind, **{name: value for name, value in given.items() if value is not None})
    _require_views(loss, kind)
    if kind.call == "rows of all views":
        kind = replace(kind, fixed={**kind.fixed, "num_samples": kind.views})
    return kind


def _require_views(loss: str, kind: Kind) -> None:
    two = ("pair", "queries and keys", "predictions and keys", "regions", "predicted regions")
    if kind.call in two:
        require(kind.views == 2, "views", f"must be 2 for {loss}, got {kind.views}")
    elif kind.call == "clusters of patches":
        require(kind.views == 1, "views", f"must be 1 for {loss}, got {kind.views}")
    elif kind.call == "anchors and target":
        require(kind.views + (kind.local_crops or 0) >= 2, "views", f"{loss} needs a target and an anchor, views 2")
    elif kind.call in ("list of views", "rows of all views", "frames and actions", "maps and positions"):
        require(kind.views >= 2, "views", f"must be at least 2 for {loss}, got {kind.views}")
    elif kind.call == "global and local":
        require(kind.local_crops != 0, "local_crops", f"must be at least 1 for {loss}, got 0")
    elif kind.call in ("crops of student and teacher", "prototypes of crops"):
        require(kind.views + (kind.local_crops or 0) >= 2, "views", f"{loss} compares different crops; give 2 or more")
    if kind.call in PATCH_CALLS:
        require(bool(kind.masked), "masked", f"must be above 0 for {loss}")


def _plan(kind: Kind, size: int, scale: tuple[float, float]) -> Plan:
    if kind.call == "frames and actions":
        return ViewSequence(kind.views - 1)
    if kind.local_crops is None and kind.views >= 2:
        return Pair(kind.views)
    local = (Crops(kind.local_crops, size, scale),) if kind.local_crops else ()
    return MultiCrop((Crops(kind.views), *local))


def _require_numbers(passed: Mapping[str, Any]) -> None:
    for name, value in passed.items():
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        require(fits, f"settings.{name}", f"expected a number, got {value!r}")
