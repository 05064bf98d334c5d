"""Equivariance-coherent reconstruction: what lies between two views is decoded from a part of the features of both."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, require_at_least, suggest
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.parts import SomeChannels
from ssl_inv.objectives.around import AroundBase, base_objective, beside, two_parts
from ssl_inv.objectives.base import Aggregation, Encoder, Losses, Objective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import MultiCrop, Pair, Plan, Several, TransformPath, Views


class ECReconstruction(AroundBase, Objective):
    """Any joint-embedding objective, and beside it the reconstruction of images between its views (Wang et al., AAAI
    2026, 2503.18753).

    View 1 is A1(I) and view 2 is g_theta(u) with u = A2(I). The last maps of both views, patch tokens or feature maps,
    are split along their channels, m = [m_inv, m_equi]. The base objective sees a backbone that has the invariant
    channels alone. Of the equivariant channels of both views, K decoders D_k make the images u_k = g_{k theta / (K +
    1)}(u) that lie between u and view 2:

        L = L_base(m_inv^1, m_inv^2, ...) + weight (1 / K) sum_k mean (D_k([m_equi^1, m_equi^2]) - u_k)^2

    over normalised pixels. No decoder is told theta: how far g goes has to be in the features. Parameters that the data
    records, such as the rotation of a rendered object, lead from the object's view 1 to its view 2, and u_k is
    rendered.

    The paper splits what the base's linear head makes of the maps; here the maps themselves are split, so that the
    parts can be probed. A base that has a teacher is reconstructed from the student's maps of both views. The paper
    does not say how its decoders enlarge: here each convolution works on the map enlarged by the same factor, the
    nearest places repeated. Each view passes the backbone once.

    When:
        An invariant objective is to keep what rotations, shifts, colour or blur do to an image, beside its own features
        and with little added to its loss; no action is given to any network, and transformations that were not trained
        are told better too. Not where an action's effect has to be predicted in feature space, since decoders make
        images; nor with backbones without maps or tokens.

    Args:
        base: the objective, a mapping with its `name` and settings. Where its first two views are a pair or crops of
            one kind, these are what is reconstructed between, and no view is added but the images on the way; otherwise
            two more views go through the backbone.
        parameters: what changes from u to view 2: `angle` is a rotation in the plane, `angle` and `translation` are
            SE(2), and `brightness`, `contrast`, `saturation` and `hue` colour jitter, all drawn by the augmentation;
            `rotation` is that of a rendered object.
        intermediates: K, how many images are reconstructed.
        equivariant_share: share of the channels, the last ones, that is equivariant, between 0 and 1.
        weight: of the reconstruction; above 5 the paper found training unstable.
        decoder: widths of a decoder's linear layer and of all its convolutions but the last, which makes red, green and
            blue.
    """

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        base: Annotated[dict[str, Any], "objective"],
        parameters: list[str] = ["angle"],  # noqa: B006 - never changed, and a recipe shows it as it stands
        intermediates: int = 2,
        equivariant_share: float = 0.5,
        weight: float = 1.0,
        decoder: list[int] = [128, 64, 32, 16],  # noqa: B006
    ) -> None:
        super().__init__()
        if not 0 < equivariant_share < 1:
            raise SettingError("equivariant_share", f"must lie between 0 and 1, got {equivariant_share}")
        require_at_least(1, intermediates=intermediates)
        if not decoder or min(decoder) < 1:
            raise SettingError("decoder", f"must name at least one width, all at least 1, got {decoder}")
        require_at_least(0, weight=weight)
        if (unknown := next((name for name in parameters if name not in groups), None)) is not None:
            raise SettingError("parameters", f"no view of this data records {unknown!r}; {suggest(unknown, groups)}")
        equivariant = round(features * equivariant_share)
        if not 0 < equivariant < features:
            raise SettingError(
                "equivariant_share", f"{equivariant_share} of {features} features leaves one of the two parts empty"
            )
        self.features, self.invariant_features = features, features - equivariant
        self.weight = weight
        self.surround(base_objective(self.invariant_features, groups, **base))
        self.path = TransformPath(intermediates, tuple(parameters))
        self._plan, self._first = _plan(self.base.plan, self.path)
        self.decoders = nn.ModuleList(Decoder(2 * equivariant, decoder) for _ in range(intermediates))

    @property
    def plan(self) -> Plan:
        return self._plan

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        x, y = views.views[self._first : self._first + 2]
        between = views.views[self._first + 2 :][: len(self.decoders)]
        seen = SomeChannels(backbone.model, self.invariant_features, remember=True)
        terms = self.base.loss(self._views_of_base(views), seen.as_backbone(backbone))
        maps = torch.cat([self._equivariant_map(seen.features_of(view.pixels)) for view in (x, y)], dim=1)
        return beside(
            terms, {"reconstruction": Term(self.reconstruction(maps, [view.pixels for view in between]), self.weight)}
        )

    @property
    def _numbers_of_base(self) -> list[int]:
        """Which of the plan's views are the base's."""
        if self._first:
            return [*range(self._first)]
        return [0, 1, *range(self.path.count, self._plan.count)]

    def _views_of_base(self, views: Views) -> Views:
        return Views(tuple(views[number] for number in self._numbers_of_base), views.index, views.shown)

    def visible_patches(self, views: Views, backbone: Backbone) -> Mapping[int, Tensor]:
        of_base = self.base.visible_patches(self._views_of_base(views), self.seen_by_base(backbone))
        return {self._numbers_of_base[number]: patches for number, patches in of_base.items()}

    def reconstruction(self, maps: Tensor, images: Sequence[Tensor]) -> Tensor:
        """The mean over decoders of the mean squared error.

        Args:
            maps: equivariant channels of both views side by side, `(B, 2 C, h, w)`.
            images: what each decoder is to make of them, `(B, 3, H, W)`.
        """
        pairs = zip(self.decoders, images, strict=True)
        return torch.stack(
            [losses.reconstruction_error(decoder(maps, image.shape[-2:]), image) for decoder, image in pairs]
        ).mean()

    def _equivariant_map(self, features: Tensor) -> Tensor:
        """The equivariant channels `(B, C, h, w)` of features `(B, D, h, w)`."""
        return features[:, self.invariant_features :]

    def seen_by_base(self, backbone: Backbone) -> Backbone:
        return SomeChannels(backbone.model, self.invariant_features).as_backbone(backbone)

    def representations(self, backbone: Backbone) -> Encoder:
        return two_parts(backbone, self.invariant_features)

    def aggregation(self, backbone: Backbone) -> Aggregation | None:
        aggregate = self.base.aggregation(self.seen_by_base(backbone))
        return aggregate and (lambda features, actions: aggregate(features[..., : self.invariant_features], actions))


class Decoder(nn.Module):
    """An image of a map: a linear layer at every place, then convolutions, each of which sees the map enlarged by the
    same factor.

    Args:
        inputs: channels of the map.
        widths: channels after the linear layer and after every convolution but the last.
    """

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.linear = nn.Conv2d(inputs, widths[0], 1)
        self.convolutions = nn.ModuleList(nn.Conv2d(one, other, 3, padding=1) for one, other in pairwise((*widths, 3)))

    def forward(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        """Images `(B, 3, *size)` of maps `(B, C, h, w)`."""
        decoded: Tensor = self.linear(maps)
        for number, convolution in enumerate(self.convolutions, start=1):
            part = number / len(self.convolutions)
            sides = [
                round(before * (after / before) ** part) for before, after in zip(maps.shape[-2:], size, strict=True)
            ]
            # Nearest places, and no interpolation: its gradient on a GPU differs from run to run.
            decoded = convolution(F.interpolate(decoded.relu(), sides, mode="nearest-exact"))
        return decoded


def _plan(base: Plan, path: TransformPath) -> tuple[Plan, int]:
    """The views of the base and those of the path, and how many of the base's stand before these.

    Where the base begins with two views of one kind, they are those of the path too, and none stand before.
    """
    match base:
        case Pair(count=2):
            return path, 0
        case Several(plans=(Pair(count=2), *others)):
            return replace(base, plans=(path, *others)), 0
        case MultiCrop(crops=(first, *others)) if first.count >= 2 and first.centre is None:
            path = replace(path, size=first.size, scale=first.scale)
            rest = [replace(first, count=first.count - 2), *others] if first.count > 2 else others
            return Several((path, MultiCrop(tuple(rest))), (None, 2)) if rest else path, 0
        case Several():
            return Several((*base.plans, path), (*base.choices, None)), base.count
    return Several((base, path), (None, None)), base.count
