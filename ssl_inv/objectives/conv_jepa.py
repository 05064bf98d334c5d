"""Conv-JEPA: from some places of an image, predict a convolutional network's features of the others."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, require, require_at_least, require_between
from ssl_inv.memories.masking import BlockMasking
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.ibn import IBN_SUFFIXES
from ssl_inv.nn.parts import leave_out_head
from ssl_inv.nn.teacher import Teacher, cosine_momentum
from ssl_inv.nn.visible import encode_places, has_batch_norm, smooth_l1_of_unit_places
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.transforms import Group, keyed_random
from ssl_inv.views import Crops, MultiCrop, Views


class ConvJEPA(Objective):
    """Joint-embedding prediction of masked places for convolutional networks (Kalapos, Gyires-Toth, "CNN-JEPA", ICMLA
    2024, 2408.07514), with the settings of the authors' code.

    Of one view x, the places H of the last map are hidden. With the encoder f, the moving average f' of its parameters,
    a convolutional predictor p, a learnt vector in hidden places, and n the division of every place by its length,

        L = mean over places j of H of sum over channels of smooth-L1(n(p(f(x without H)))_j, n(f'(x))_j).

    f is sparse: hidden pixels are 0, every layer's output is 0 in hidden places, and batch normalisation takes the
    statistics of visible places (`ssl_inv.nn.visible`). So f cannot see the shape of the hidden places as edges, and
    its statistics are those of whole images. f' sees all places. Most steps hide blocks, as I-JEPA does, and the
    others single places. Views are crops alone: `{name: custom, operations: [{name: crop, scale: [0.3, 1]}]}`.

    When:
        Masked prediction for a convolutional network, without augmentation of colour: one view, no projector, a step
        that costs less than two views. Not for vision transformers, for which `i-jepa` computes visible patches only.
        Not where the last map has few places: masks need 7 x 7, which ResNets have of 224 pixels. Not where an action's
        effect must be predicted.

    Args:
        multi_block: share of the steps that hide blocks.
        blocks: blocks of a view that are hidden; they may overlap.
        block_scale: smallest and largest share of the places in a block.
        block_aspect: smallest and largest height over width of a block.
        least_context: smallest number of visible places; smaller ones are drawn anew, up to twenty times, and
            then the largest of them counts.
        hidden_share: share of the places that the other steps hide.
        mask_seed: seed of the masks; each mask also depends on step and sample.
        predictor_depth: number of the predictor's layers; each is a convolution of single channels, one of single
            places, a batch normalisation and a ReLU.
        predictor_kernel: side of the convolutions of single channels, odd.
        momentum: of the moving average in the first step; it rises to 1 along half a cosine. The authors' was not at
            hand.
        keep: which network the run ends with. The authors judge f'.

    Raises:
        ValueError: if a number is out of its range, or the network has no batch normalisation.
    """

    needs_whole_backbone = "changes how its normalisations run"

    teacher: Teacher
    mask_token: nn.Parameter
    place_predictor: nn.Sequential

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        multi_block: float = 0.75,
        blocks: int = 4,
        block_scale: list[float] = [0.15, 0.2],
        block_aspect: list[float] = [0.75, 1.5],
        least_context: int = 5,
        hidden_share: float = 0.6,
        mask_seed: int = 0,
        predictor_depth: int = 3,
        predictor_kernel: int = 3,
        momentum: float = 0.996,
        keep: Literal["teacher", "student"] = "teacher",
    ) -> None:
        super().__init__()
        require_between(0, 1, multi_block=multi_block, hidden_share=hidden_share, momentum=momentum)
        require_at_least(1, predictor_depth=predictor_depth, predictor_kernel=predictor_kernel)
        require(predictor_kernel % 2 == 1, "predictor_kernel", f"must be odd, got {predictor_kernel}")
        self.masking = BlockMasking(blocks, block_scale, block_aspect, [1.0, 1.0], least_context, mask_seed)
        self.multi_block, self.hidden_share = multi_block, hidden_share
        self.predictor_shape = (predictor_depth, predictor_kernel)
        self.momentum, self.keep = momentum, keep

    @property
    def plan(self) -> MultiCrop:
        return MultiCrop((Crops(1),))

    def adopt(self, backbone: Backbone) -> None:
        mixed = backbone.architecture.endswith(tuple(filter(None, IBN_SUFFIXES.values())))
        problem = (
            "conv-jepa hides places of networks with batch normalisation alone, and IBN adds instance normalisation"
        )
        require(not mixed, "backbone.ibn", f"{problem}; choose none")
        if not has_batch_norm(backbone.model):
            problem = (
                f"conv-jepa hides places of networks with batch normalisation alone, not of {backbone.architecture}"
            )
            raise SettingError("name", f"{problem}; choose a ResNet, or i-jepa for a vision transformer")
        leave_out_head(backbone)
        self.teacher = Teacher(backbone)
        channels, (depth, kernel) = backbone.channels, self.predictor_shape
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(channels), std=0.02, a=-0.02, b=0.02))
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [
                nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels),
                nn.Conv2d(channels, channels, 1),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
        self.place_predictor = nn.Sequential(*layers)

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        pixels = views[0].pixels
        targets = self._targets(pixels)
        hidden = self.hidden(views.index, (targets.shape[2], targets.shape[3])).to(pixels.device, non_blocking=True)
        seen = encode_places(backbone, pixels, ~hidden)
        filled = torch.where(hidden.unsqueeze(1), self.mask_token.to(seen.dtype).view(1, -1, 1, 1), seen)
        return {"prediction": Term(smooth_l1_of_unit_places(self.place_predictor(filled), targets, hidden))}

    @torch.no_grad()
    def _targets(self, pixels: Tensor) -> Tensor:
        network = self.teacher.network
        assert isinstance(network, Backbone)
        return network.feature_map(pixels)

    def hidden(self, index: Tensor, grid: tuple[int, int]) -> Tensor:
        """The hidden places of this step, `(B, h, w)`, bool, on the host.

        Args:
            index: the samples' numbers in the data set, `(B,)`.
            grid: h and w of the last map.

        Raises:
            SettingError: if the last map has one place only, or no place or every place would be hidden.
        """
        rows, columns = grid
        _require_places(grid)
        seed, steps = self.masking.seed, self.masking.steps_done
        if keyed_random.uniform(seed, steps, 1, count=1)[0, 0] < self.multi_block:
            hidden = self.masking.predicted(index, grid)
            problem = f"{self.masking.blocks} of them hide all {rows} x {columns} places; make block_scale smaller"
            require(not bool(hidden.all()), "blocks", problem)
            return hidden
        count = self._hidden_count(grid)
        order = keyed_random.uniform(seed, steps, 2, index.cpu().numpy(), count=rows * columns).argsort(axis=1)
        return torch.from_numpy(np.argsort(order, axis=1) < count).view(-1, rows, columns)

    def _hidden_count(self, grid: tuple[int, int]) -> int:
        rows, columns = grid
        count = round(self.hidden_share * rows * columns)
        problem = f"{self.hidden_share} hides {count} of {rows} x {columns} places; some must be hidden and some seen"
        require(0 < count < rows * columns, "hidden_share", problem)
        return count

    def require_size(self, backbone: Backbone, size: int) -> None:
        grid = backbone.places(size)
        _require_places(grid)
        # Which of the two kinds a step hides is drawn, and the second may first come late.
        if self.multi_block > 0:
            self.masking.require_fit(grid)
        if self.multi_block < 1:
            self._hidden_count(grid)

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        self.teacher.follow(backbone, cosine_momentum(self.momentum, step, steps))
        self.masking.advance(step, steps)
        if step == steps and self.keep == "teacher":
            backbone.load_state_dict(self.teacher.network.state_dict())


def _require_places(grid: tuple[int, int]) -> None:
    problem = "the last map of these images has one place, and conv-jepa predicts some places from others"
    require(grid[0] * grid[1] > 1, "backbone.stem", f"{problem}; take larger images or, for a ResNet, 3x3-stride1")
