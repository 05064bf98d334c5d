"""I-JEPA: predict from some patches of an image the features of other blocks of patches."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from ssl_inv.memories.masking import BlockMasking
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.teacher import Teacher, linear_momentum
from ssl_inv.nn.tokens import (
    TokenPredictor,
    encode_visible,
    grid_of_size,
    make_predictor,
    normalised,
    patch_grid,
    require_patch_tokens,
    require_token_settings,
    take,
    teacher_tokens,
)
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import Crops, MultiCrop, Views


class IJEPA(Objective):
    """Image-based joint-embedding predictive architecture (Assran et al., CVPR 2023, 2301.08243, sec. 3).

    Of one view x, the patches C are the context and the blocks T_1 .. T_M are targets, which share no patch with C.
    With the encoder f, the moving average f' of its parameters, the predictor p and the layer normalisation LN without
    affine part,

        L = (1 / M) sum_i mean over patches j of T_i of D(p(f(x_C), T_i)_j, LN(f'(x)_j)).

    f computes nothing of patches outside C; f' sees all patches. The paper has the sum of squared differences for D and
    no LN. Its code has a smooth L1 distance, the mean over dimensions, and LN, which are the defaults here. The
    backbone is a vision transformer of timm whose features are the mean of its patch tokens: `{class_token: false,
    global_pool: avg, fc_norm: false}`. f is kept and judged; the paper judges f'. Views are crops alone: `{name:
    custom, operations: [{name: crop, scale: [0.3, 1]}]}`.

    When:
        Features of patches and their places from a vision transformer on plain images, without augmentation of colour.
        A step costs less than in multi-crop methods, since the encoder sees a part of each image. Not for convolutional
        networks. Not on small data, short training or small networks: published re-runs are poor there, and after 800
        steps here it is far below VICReg with the same network. Not where an action's effect must be predicted: see
        `iwm`.

    Args:
        blocks: M, target blocks of a view.
        block_scale: smallest and largest share of the patches in a target block.
        block_aspect: smallest and largest height over width of a target block.
        context_scale: smallest and largest share of the patches in the context square; the context is this square
            without the targets.
        least_context: smallest number of patches in a context; smaller ones are drawn anew, up to twenty times, and
            then the largest of them counts.
        mask_seed: seed of the masks; each mask also depends on step and sample.
        predictor_width: of the predictor's tokens.
        predictor_depth: number of the predictor's transformer blocks; the paper has 6 for ViT-B, 12 for ViT-L and
            ViT-H.
        predictor_heads: of the predictor's attention; 0 takes the backbone's number, as in the paper.
        error: D: `smooth-l1`, `squared` as in the paper's equation, or `absolute` as in V-JEPA.
        normalised_targets: whether targets pass through LN.
        momentum: of the moving average in the first step; it rises to 1 linearly.
    """

    teacher: Teacher
    token_predictor: TokenPredictor

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        blocks: int = 4,
        block_scale: list[float] = [0.15, 0.2],
        block_aspect: list[float] = [0.75, 1.5],
        context_scale: list[float] = [0.85, 1.0],
        least_context: int = 10,
        mask_seed: int = 0,
        predictor_width: int = 384,
        predictor_depth: int = 12,
        predictor_heads: int = 0,
        error: Literal["smooth-l1", "squared", "absolute"] = "smooth-l1",
        normalised_targets: bool = True,
        momentum: float = 0.996,
    ) -> None:
        super().__init__()
        require_token_settings(predictor_heads, momentum)
        self.masking = BlockMasking(blocks, block_scale, block_aspect, context_scale, least_context, mask_seed)
        self.predictor_shape = (predictor_width, predictor_depth, predictor_heads)
        self.error: losses.Error = error
        self.normalised_targets, self.momentum = normalised_targets, momentum

    @property
    def plan(self) -> MultiCrop:
        return MultiCrop((Crops(1),))

    def adopt(self, backbone: Backbone) -> None:
        require_patch_tokens(backbone, "i-jepa")
        self.token_predictor = make_predictor(backbone, *self.predictor_shape)
        self.teacher = Teacher(backbone)

    def require_size(self, backbone: Backbone, size: int) -> None:
        self.masking.require_fit(grid_of_size(backbone, size))

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        pixels = views[0].pixels
        grid = patch_grid(backbone, pixels)
        masks = self.masking(views.index, grid, pixels.device)
        seen = encode_visible(backbone, pixels, masks.context)
        predicted = self.token_predictor(seen, masks.context, masks.targets, grid)
        return {"prediction": Term(losses.token_error(predicted, self._targets(pixels, masks.targets), self.error))}

    def _targets(self, pixels: Tensor, patches: Tensor) -> Tensor:
        """The targets of the predictions `(B, M, m, C)` of patches `(B, M, m)`."""
        tokens = take(teacher_tokens(self.teacher, pixels), patches)
        return normalised(tokens) if self.normalised_targets else tokens

    def visible_patches(self, views: Views, backbone: Backbone) -> Mapping[int, Tensor]:
        grid = patch_grid(backbone, views[0].pixels)
        return {0: self.masking.visible(views.index, grid)}

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        self.teacher.follow(backbone, linear_momentum(self.momentum, step - 1, steps))
        self.masking.advance(step, steps)
