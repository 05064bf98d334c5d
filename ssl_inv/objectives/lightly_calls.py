"""What the losses of lightly are given: made from a batch of views, and of the samples of all processes."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import require
from ssl_inv.memories.progress import Progress
from ssl_inv.memories.queue import Queue
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.distributed import all_sum, gather, is_distributed, rank, world_size
from ssl_inv.nn.lightly_parts import call
from ssl_inv.nn.lightly_table import PATCH_CALLS, Call, Kind
from ssl_inv.nn.losses import full_precision, sample_mean
from ssl_inv.nn.teacher import Teacher
from ssl_inv.nn.tokens import Grid, encode_tokens, encode_visible, grid_of_patches
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.transforms import keyed_random
from ssl_inv.views import View, Views


class Called(Progress, Objective):
    """An objective whose sum is a loss of lightly: its networks, and every way of calling it.

    Attributes:
        calls: the function behind every way.
        kind: how the loss is called.
        loss_name: of its class.
        loss_function: the loss.
        head: from features `(B, D)` to what the loss compares.
        predictor_network: from projections, tokens or embeddings to their prediction, where the loss has one.
        prototypes: of SwAV and MSN.
        queues: of SwAV's embeddings, one for each whole view.
        teacher: an EMA of the backbone and the head in a `Sequential`; None if there is none.
        mask_token: in place of hidden patches, `(C,)`.
        dense_head: VICRegL's, from the positions of maps `(M, C)`.
        regions: of DetCon, along each side of the image.
        cluster_head: of CAPI's teacher, trained by a loss of its own.
        action_network: embeds actions.
        actions: the recorded parameters that a predictor is told.
        masked: share of the patches that are hidden.
        seed: of masks and random directions, with the step.
        loss_width: dimensions of what the head gives.
        temperatures: of the teacher in the first step, and the share of all steps until it is the loss's own.
        passed: arguments of the loss's call that are settings.
    """

    calls: Mapping[Call, Callable[["Called", Views, Backbone], Tensor | Losses]]
    kind: Kind
    loss_name: str
    loss_function: nn.Module
    head: nn.Module
    predictor_network: nn.Module
    prototypes: nn.Module
    queues: nn.ModuleList
    teacher: Teacher | None
    mask_token: nn.Parameter
    dense_head: nn.Module
    regions: int
    cluster_head: nn.Module
    action_network: nn.Module
    actions: list[str]
    masked: float
    seed: int
    loss_width: int
    temperatures: tuple[float, float]
    passed: Mapping[str, Any]

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        samples = len(views.index) * world_size()
        require(samples >= 2, "loss", f"{self.loss_name} compares samples, and the batch has {samples}")
        found = self.calls[self.kind.call](self, views, backbone)
        return {self.loss_name: Term(found)} if isinstance(found, Tensor) else found

    def value(self, *inputs: Any, of: nn.Module | None = None, **named: Any) -> Tensor:
        """The loss of the global batch."""
        key = int(keyed_random.bits(self.seed, self.steps_done, count=1)[0, 0] >> 1)
        if self.kind.teacher_temperature:
            named["teacher_temp"] = self._teacher_temperature()
        value = call(self.loss_function if of is None else of, key, *inputs, **named)
        return all_sum(value) / world_size() if self.kind.gathered == "lightly" else value

    def together(self, *rows: Tensor) -> list[Tensor]:
        """Rows `(B, ...)` of one shape, in full precision, and of all processes unless the loss gathers itself."""
        full = [full_precision(one) for one in rows]
        if self.kind.gathered == "lightly" or not is_distributed():
            return full
        return list(gather(torch.stack(full, dim=1)).unbind(dim=1))

    def embed(self, views: tuple[View, ...], backbone: Backbone) -> list[Tensor]:
        """The projections of each view. Every view goes through the networks by itself, as in lightly's examples."""
        return [self.head(backbone(view.pixels)) for view in views]

    def teach(self, views: tuple[View, ...]) -> list[Tensor]:
        """The teacher's projections of each view."""
        assert self.teacher is not None
        return [self.teacher(view.pixels) for view in views]

    def _teacher_temperature(self) -> float:
        """Rises or falls linearly from the first to the loss's own in the first share of all steps."""
        first, share = self.temperatures
        last = float(self.loss_function.teacher_temp)  # type: ignore[arg-type]
        return last if self.share_done >= share else first + (last - first) * self.share_done / share

    def hidden(self, index: Tensor, grid: Grid, views: int) -> Tensor:
        """The numbers of the hidden patches of every view, `(V, B, n)`, equally many for all."""
        patches = grid[0] * grid[1]
        count = min(max(1, round(self.masked * patches)), patches - 1)
        samples = index.cpu().numpy()
        view = np.repeat(np.arange(views), len(samples))
        units = keyed_random.bits(self.seed, self.steps_done, np.tile(samples, views), view, count=patches)
        return torch.from_numpy(np.ascontiguousarray(units.argsort(axis=1)[:, :count])).view(views, -1, count)

    def hidden_views(self, views: Views, backbone: Backbone) -> tuple[Tensor, Grid, int]:
        """Which patches of which views are hidden, `(V, B, N)`, bool; the grid; and the number of the first view."""
        first = 1 if self.kind.call == "anchors and target" else 0
        grid = grid_of_patches(backbone, views[0].pixels)
        hidden = self.hidden(views.index, grid, self.kind.views - first)
        marks = torch.zeros(*hidden.shape[:2], grid[0] * grid[1], dtype=torch.bool)
        return marks.scatter_(2, hidden, True), grid, first

    def visible_patches(self, views: Views, backbone: Backbone) -> Mapping[int, Tensor]:
        if not self.masked:
            return {}
        hidden, grid, first = self.hidden_views(views, backbone)
        return dict(enumerate((~hidden).view(*hidden.shape[:2], *grid), start=first))

    def tokens(self, views: Views, backbone: Backbone) -> tuple[Tensor, Tensor, Tensor, Grid]:
        """Tokens `(V B, N, D)` of the student, which does not see some patches, and of the teacher; which patches they
        are, `(V B, N)`; and the grid.
        """
        assert self.teacher is not None
        pixels = torch.cat([view.pixels for view in views.views])
        marks, grid, _ = self.hidden_views(views, backbone)
        hidden = marks.flatten(0, 1).to(pixels.device, non_blocking=True)
        student = encode_tokens(backbone, pixels, hidden, self.mask_token)[1]
        encoder: Any = self.teacher.network.get_submodule("0")
        with torch.no_grad():
            teacher = encode_tokens(encoder, pixels)[1]
        return student, teacher, hidden, grid

    def teacher_head(self, tokens: Tensor) -> Tensor:
        """The teacher's head on tokens `(M, D)`."""
        assert self.teacher is not None
        with torch.no_grad():
            return self.teacher.network.get_submodule("1")(tokens)  # type: ignore[no-any-return]

    def world_model_terms(self, predicted: Tensor, embedded: Tensor) -> Losses:
        """LeWM's terms, of embeddings `(B, T, D)` and of their prediction `(B, T - 1, D)` for all but the first.

        LeWMLoss itself keeps the gradient from the target.
        """
        both = [full_precision(one) for one in (predicted, embedded[:, 1:])]
        function: Any = self.loss_function
        if function.normalize:
            both = [F.layer_norm(one, one.shape[-1:]) for one in both]
        error = sample_mean((both[0] - both[1]).square().mean(dim=(1, 2)))
        (rows,) = self.together(embedded)
        regularised = self.value(rows.transpose(0, 1), of=function.sigreg)
        return {"prediction": Term(error), "sigreg": Term(regularised, function.lambda_param)}

    def action_vectors(self, views: Views) -> Tensor:
        """The actions from each view to the next, `(B, V - 1, K)`."""
        steps = [here.transform.relative(there.transform) for here, there in pairwise(views.views)]
        return torch.stack([step.as_vector(self.actions, "canonical") for step in steps], dim=1)


def _pair(objective: Called, views: Views, backbone: Backbone) -> Tensor:
    return objective.value(*objective.together(*objective.embed(views.views, backbone)))


def _queries_and_keys(objective: Called, views: Views, backbone: Backbone) -> Tensor:
    (keys,), (queries,) = objective.teach(views.views[1:]), objective.embed(views.views[:1], backbone)
    queries, keys = objective.together(queries, keys)
    return objective.value(queries, keys.detach())


def _predictions_and_keys(objective: Called, views: Views, backbone: Backbone) -> Tensor:
    projected = objective.embed(views.views, backbone)
    predicted = [objective.predictor_network(one) for one in projected]
    keys = projected if objective.teacher is None else objective.teach(views.views)
    p, q, x, y = objective.together(*predicted, *(one.detach() for one in keys))
    return (objective.value(p, y.detach()) + objective.value(q, x.detach())) / 2


def _list_of_views(objective: Called, views: Views, backbone: Backbone) -> Tensor:
    return objective.value(objective.together(*objective.embed(views.views, backbone)))


def _each_view(objective: Called, views: Views, backbone: Backbone) -> Tensor:
    rows = objective.together(*objective.embed(views.views, backbone))
    return torch.stack([objective.value(one) for one in rows]).mean()


def _stack_of_views(objective: Called, views: Views, backbone: Backbone) -> Tensor:
    return objective.value(torch.stack(objective.together(*objective.embed(views.views, backbone))))


def _global_and_local(objective: Called, views: Views, backbone: Backbone) -> Tensor:
    rows = torch.stack(objective.together(*objective.embed(views.views, backbone)))
    whole = objective.kind.views
    return objective.value(local_proj=rows[whole:], global_proj=rows[:whole])


def _rows_of_all_views(objective: Called, views: Views, backbone: Backbone) -> Tensor:
    rows = objective.together(*objective.embed(views.views, backbone))
    size = int(objective.loss_function.w_size)  # type: ignore[arg-type]
    require(len(rows[0]) % size == 0, "settings.w_size", f"must divide the batch of {len(rows[0])} samples, got {size}")
    return objective.value(torch.cat(rows))


def _online_and_momentum(objective: Called, views: Views, backbone: Backbone) -> Tensor:
    rows = objective.together(*objective.embed(views.views, backbone), *objective.teach(views.views))
    online, momentum = rows[: len(views)], rows[len(views) :]
    return objective.value(torch.stack(online, dim=1), torch.stack(momentum, dim=1).detach())


def _student_and_teacher(objective: Called, views: Views, backbone: Backbone) -> Tensor:
    teacher = objective.together(*objective.teach(views.views[: objective.kind.views]))
    return objective.value(teacher, objective.together(*objective.embed(views.views, backbone)))


def _prototypes_of_crops(objective: Called, views: Views, backbone: Backbone) -> Tensor:
    unit = [F.normalize(one, dim=1) for one in objective.embed(views.views, backbone)]
    whole = objective.kind.views
    logits = objective.together(*(objective.prototypes(one) for one in unit))
    queues = [one for one in objective.queues if isinstance(one, Queue)]
    earlier = None
    if queues and all(queue.filled == queue.size for queue in queues):
        # All processes have the whole queue. Each gives its share of it, as lightly sums over processes.
        share, odd = divmod(queues[0].size, world_size())
        require(not odd, "queue", f"must be a multiple of {world_size()} processes, got {queues[0].size}")
        mine = slice(rank() * share, (rank() + 1) * share)
        with torch.no_grad():
            vectors = [queue.vectors[mine].to(unit[0].dtype) for queue in queues]
            earlier = [full_precision(objective.prototypes(one)) for one in vectors]
    for queue, rows in zip(queues, unit, strict=False):
        queue.put(rows)
    return objective.value(logits[:whole], logits[whole:], earlier)


def _anchors_and_target(objective: Called, views: Views, backbone: Backbone) -> Tensor:
    whole, size = objective.kind.views, len(views.index)
    target = objective.teach(views.views[:1])
    features: list[Tensor] = []
    if whole > 1 and objective.masked:
        model: Any = backbone.model
        hidden = objective.hidden_views(views, backbone)[0].flatten(0, 1)
        pixels = torch.cat([view.pixels for view in views.views[1:whole]])
        kept = (~hidden).nonzero()[:, 1].view(len(hidden), -1).to(pixels.device, non_blocking=True)

        def keep(module: nn.Module, inputs: Any, tokens: Tensor) -> Tensor:
            prefix = int(model.num_prefix_tokens)
            chosen = tokens[:, prefix:].gather(1, kept[:, :, None].expand(-1, -1, tokens.shape[2]))
            return torch.cat((tokens[:, :prefix], chosen), dim=1)

        features += backbone.encode(pixels, (model.patch_drop, keep)).pooled.view(whole - 1, size, -1).unbind()
    else:
        features += [backbone(view.pixels) for view in views.views[1:whole]]
    features += [backbone(view.pixels) for view in views.views[whole:]]
    rows = objective.together(*(objective.head(one) for one in features), *target)
    weights = full_precision(objective.prototypes.weight)  # type: ignore[arg-type]
    return objective.value(torch.cat(rows[:-1]), rows[-1].detach(), weights, **objective.passed)


def _masked_patches(objective: Called, views: Views, backbone: Backbone) -> Tensor:
    student, teacher, hidden, grid = objective.tokens(views, backbone)
    # Equally many patches are hidden in every view, so their number need not be asked from the device.
    count = min(max(1, round(objective.masked * hidden.shape[1])), hidden.shape[1] - 1)
    rows = hidden.byte().argsort(dim=1, descending=True, stable=True)[:, :count, None].expand(-1, -1, student.shape[2])
    seen, taught = (tokens.gather(1, rows).flatten(0, 1) for tokens in (student, teacher))
    logits, targets = objective.head(seen), objective.teacher_head(taught)
    return objective.value(*map(full_precision, (targets, logits)), hidden.view(-1, *grid))


def _all_patches(objective: Called, views: Views, backbone: Backbone) -> Tensor:
    student, teacher, hidden, _ = objective.tokens(views, backbone)
    logits, targets = objective.head(student.flatten(0, 1)), objective.teacher_head(teacher.flatten(0, 1))
    both = (full_precision(one).view(*hidden.shape, -1) for one in (targets, logits))
    return objective.value(*both, hidden, **objective.passed)


def _dense_maps(objective: Called, views: Views, backbone: Backbone) -> Tensor:
    student, teacher, hidden, _ = objective.tokens(views, backbone)
    made = objective.head(student.flatten(0, 1)), objective.teacher_head(teacher.flatten(0, 1))
    # Sample by sample, so that the rows of all processes are in the order of one process.
    by_sample = (one.view(len(views), -1, *hidden.shape[1:], one.shape[1]).transpose(0, 1) for one in made)
    mine, theirs = (one.flatten(0, 1) for one in objective.together(*by_sample))
    return objective.value(mine, theirs.detach())


def _clusters_of_patches(objective: Called, views: Views, backbone: Backbone) -> Losses:
    assert objective.teacher is not None
    pixels, (marks, _, _) = views[0].pixels, objective.hidden_views(views, backbone)
    order = marks[0].byte().argsort(dim=1, stable=True).to(pixels.device, non_blocking=True)
    seen = marks.shape[2] - int(marks[0, 0].sum())
    visible, hidden = order[:, :seen].sort(dim=1).values, order[:, seen:].sort(dim=1).values
    encoder: Any = objective.teacher.network.get_submodule("0")
    with torch.no_grad():
        taught = encoder.tokens(pixels)
    clusters = full_precision(objective.cluster_head(taught))
    predicted = objective.predictor_network(encode_visible(backbone, pixels, visible), visible, hidden)
    logits = full_precision(objective.head(predicted))
    return {
        "prediction": Term(objective.value(clusters.detach(), logits, hidden)),
        "clustering": Term(objective.value(clusters, clusters)),
    }


def _frames_and_actions(objective: Called, views: Views, backbone: Backbone) -> Losses:
    frames = torch.cat([view.pixels for view in views.views])
    embedded = objective.head(backbone(frames)).unflatten(0, (len(views), -1)).transpose(0, 1)
    actions = objective.action_network(objective.action_vectors(views).to(embedded.dtype))
    predicted = objective.predictor_network(embedded[:, :-1], action_emb=actions)
    return objective.world_model_terms(predicted, embedded)


CALLS: Mapping[Call, Callable[[Called, Views, Backbone], Tensor | Losses]] = {
    "pair": _pair,
    "queries and keys": _queries_and_keys,
    "predictions and keys": _predictions_and_keys,
    "list of views": _list_of_views,
    "each view": _each_view,
    "stack of views": _stack_of_views,
    "global and local": _global_and_local,
    "rows of all views": _rows_of_all_views,
    "online and momentum": _online_and_momentum,
    "crops of student and teacher": _student_and_teacher,
    "prototypes of crops": _prototypes_of_crops,
    "anchors and target": _anchors_and_target,
    "masked patches": _masked_patches,
    "all patches": _all_patches,
    "dense maps": _dense_maps,
    "clusters of patches": _clusters_of_patches,
    "frames and actions": _frames_and_actions,
}

NEEDS_PATCHES = (*PATCH_CALLS, "anchors and target")
