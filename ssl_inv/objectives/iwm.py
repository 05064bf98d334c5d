"""Image World Models: predict from patches of one view the features of patches of another, given the action."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ssl_inv.catalogue import require, require_at_least
from ssl_inv.memories.masking import BlockMasking
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.teacher import Teacher, linear_momentum
from ssl_inv.nn.tokens import (
    Grid,
    TokenPredictor,
    encode_visible,
    make_predictor,
    normalised,
    require_patch_tokens,
    require_token_settings,
    take,
    teacher_tokens,
)
from ssl_inv.objectives.base import ActionPrediction, Losses, Objective, Term, action_dimensions
from ssl_inv.transforms import Group
from ssl_inv.views import Pair, Views


class IWM(Objective):
    """Image World Models (Garrido et al., 2024, arXiv 2403.00504).

    The patches C of a source view x are the context. The blocks T_1 .. T_M of the target view y are predicted; they
    share no place with C. With the encoder f, the moving average f' of its parameters, the action a from x to y and the
    predictor p, a transformer,

        L = (1 / M) sum_i mean over places j of T_i of |p(f(x_C), T_i, a)_j - f'(y)_j|^2 / dimensions.

    The predictor has a learnt token for every place; three linear layers mix the place and the action into it. A deep
    predictor that reads a makes f equivariant; a shallow one, or one without a, makes f invariant. The paper's have 18
    and 12 blocks of width 384 for ViT-B. In the paper both views are one crop, as the augmentation `iwm` makes them,
    and a is the difference of their colour jitter and the other changes of x. Here a is any parameters of the views,
    and data with several views of an object give x and y from these. Masks are I-JEPA's. f is the backbone's tokens
    followed by a layer normalisation without affine part, so source, target and prediction lie in one space; the
    authors' code is not public. The backbone is a vision transformer of timm whose features are the mean of its patch
    tokens: `{class_token: false, global_pool: avg, fc_norm: false}`. f is kept and judged.

    When:
        A vision transformer must know how an image was seen, by colours or by pose, and a network that predicts an
        action's effect should come with it. Or one setting, the predictor's depth, should lead from invariant to
        equivariant features. Not for convolutional networks. Not for the best linear probes, which the invariant end
        has. Not on small data and short training, where masked prediction is poor: after 800 steps on rendered solids
        its R2 of rotations is no better than VICReg's with the same transformer, and its prediction ignores the action.

    Args:
        parameters: of the action. The default is for the augmentation `iwm`; `rotation` is for rendered objects.
        blocks: M, target blocks of a view.
        block_scale: smallest and largest share of the patches in a target block.
        block_aspect: smallest and largest height over width of a target block.
        context_scale: smallest and largest share of the patches in the context square; the context is this square
            without the targets.
        least_context: smallest number of patches in a context; smaller ones are drawn anew, up to twenty times, and
            then the largest of them counts.
        mask_seed: seed of the masks; each mask also depends on step and sample.
        predictor_width: of the predictor's tokens.
        predictor_depth: number of the predictor's transformer blocks.
        predictor_heads: of the predictor's attention; 0 takes the backbone's number.
        error: `squared`, `smooth-l1` as in I-JEPA's code, or `absolute`.
        momentum: of the moving average in the first step; it rises to 1 linearly.
        judged_side: retrieval predicts a square of so many patches a side, spread evenly over the view, from the same
            patches of the source, which is encoded whole. The paper compares all patches, which needs too much memory
            for most data.
    """

    teacher: Teacher
    token_predictor: TokenPredictor

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        parameters: list[str] = ["brightness", "contrast", "saturation", "hue", "grey", "blur", "solarise"],
        blocks: int = 4,
        block_scale: list[float] = [0.15, 0.2],
        block_aspect: list[float] = [0.75, 1.5],
        context_scale: list[float] = [0.85, 1.0],
        least_context: int = 10,
        mask_seed: int = 0,
        predictor_width: int = 384,
        predictor_depth: int = 18,
        predictor_heads: int = 0,
        error: Literal["squared", "smooth-l1", "absolute"] = "squared",
        momentum: float = 0.996,
        judged_side: int = 4,
    ) -> None:
        super().__init__()
        require_token_settings(predictor_heads, momentum)
        problem = "is empty; name what views differ in, or choose i-jepa, whose predictor reads no action"
        require(bool(parameters), "parameters", problem)
        require_at_least(1, judged_side=judged_side)
        self.parameters_used = parameters
        self.action = action_dimensions(groups, parameters, "canonical")
        self.masking = BlockMasking(blocks, block_scale, block_aspect, context_scale, least_context, mask_seed)
        self.predictor_shape = (predictor_width, predictor_depth, predictor_heads)
        self.error: losses.Error = error
        self.momentum, self.judged_side = momentum, judged_side

    @property
    def plan(self) -> Pair:
        return Pair()

    def adopt(self, backbone: Backbone) -> None:
        require_patch_tokens(backbone, "iwm")
        model: Any = backbone.model
        problem = "iwm predicts at the places of one grid of patches; give img_size instead of dynamic_img_size"
        require(not model.dynamic_img_size, "arguments", problem)
        self.grid: Grid = model.patch_embed.grid_size
        self.token_predictor = make_predictor(backbone, *self.predictor_shape, self.action)
        self.teacher = Teacher(backbone)

    def require_size(self, backbone: Backbone, size: int) -> None:
        self.masking.require_fit(self.grid)

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        source, target = views.views
        masks = self.masking(views.index, self.grid, source.pixels.device)
        action = source.transform.relative(target.transform).as_vector(self.parameters_used)
        seen = normalised(encode_visible(backbone, source.pixels, masks.context))
        predicted = self.token_predictor(seen, masks.context, masks.targets, self.grid, action)
        wanted = normalised(take(teacher_tokens(self.teacher, target.pixels), masks.targets))
        return {"prediction": Term(losses.token_error(predicted, wanted, self.error))}

    def visible_patches(self, views: Views, backbone: Backbone) -> Mapping[int, Tensor]:
        return {0: self.masking.visible(views.index, self.grid), 1: self.masking.predicted(views.index, self.grid)}

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        self.teacher.follow(backbone, linear_momentum(self.momentum, step - 1, steps))
        self.masking.advance(step, steps)

    def predictor(self, backbone: Backbone) -> ActionPrediction:
        """The prediction of some patches, side by side; embeddings are their tokens, encoded with the whole view."""
        judged = evenly_spread(self.grid, self.judged_side)

        def embed(pixels: Tensor) -> Tensor:
            return normalised(backbone.tokens(pixels)[:, judged.to(pixels.device)]).flatten(1)

        def move(embedding: Tensor, action: Tensor) -> Tensor:
            patches = judged.to(embedding.device).expand(len(embedding), -1)
            seen = embedding.view(len(embedding), len(judged), -1)
            return self.token_predictor(seen, patches, patches.unsqueeze(1), self.grid, action).flatten(1)  # type: ignore[no-any-return]

        return ActionPrediction(embed, move, self.parameters_used, "canonical")


def evenly_spread(grid: Grid, side: int) -> Tensor:
    """The numbers of `side` x `side` patches at even distances, ascending; fewer where the grid has fewer."""
    rows, columns = (((torch.arange(min(side, count)) + 0.5) * count / min(side, count)).long() for count in grid)
    return (rows[:, None] * grid[1] + columns).flatten()
