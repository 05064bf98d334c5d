"""Equivariance-coherent reconstruction: images between two views are decoded from a part of both views' features."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, require, require_at_least, require_recorded
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone, Cached
from ssl_inv.nn.parts import Part
from ssl_inv.objectives.around import Around, aggregation_of_part, base_objective, beside, two_parts
from ssl_inv.objectives.base import Aggregation, Encoder, Losses, Objective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import MultiCrop, Pair, Plan, Several, TransformPath, Views


class ECReconstruction(Around):
    """Reconstruction of the images between two views, beside any joint-embedding objective (Wang et al., AAAI 2026,
    2503.18753).

    View 1 is A1(I) and view 2 is g_theta(u) with u = A2(I). The last maps of both views, patch tokens or feature maps,
    are split along their channels, m = [m_inv, m_equi]. The base objective is given a backbone with the invariant
    channels only. From the equivariant channels of both views, K decoders D_k make the images
    u_k = g_{k theta / (K + 1)}(u) between u and view 2:

        L = L_base(m_inv^1, m_inv^2, ...) + weight (1 / K) sum_k mean (D_k([m_equi^1, m_equi^2]) - u_k)^2

    over normalised pixels. No decoder gets theta, so features must contain how far g goes. If the data record the
    parameters, such as the rotation of a rendered object, they lead from the object's view 1 to its view 2, and u_k is
    rendered.

    The paper splits the output of the base's linear head; here the maps themselves are split, so that the parts can be
    probed. If the base has a teacher, reconstruction still uses the student's maps of both views. The paper does not
    say how its decoders enlarge maps; here each convolution works on the map enlarged by the same factor, by nearest
    neighbours. Each view passes the backbone once.

    When:
        An invariant objective should keep the effects of rotations, shifts, colour or blur, in features of their own
        and with little added to its loss. No network gets the action, and transformations that were not trained are
        encoded better too. Not where the effect of an action has to be predicted in feature space, since decoders make
        images; nor with backbones without maps or tokens.

    Args:
        base: the objective, a mapping with its `name` and settings. If its first two views are a pair or crops of one
            kind, images between these are reconstructed, and only those images are added; otherwise two more views pass
            the backbone.
        parameters: the parameters that change from u to view 2: `angle` is a rotation in the plane, `angle` and
            `translation` are SE(2), and `brightness`, `contrast`, `saturation` and `hue` are colour jitter, all drawn
            by the augmentation; `rotation` is the rotation of a rendered object.
        intermediates: K, the number of reconstructed images.
        equivariant_share: share of the channels, the last ones, that is equivariant, between 0 and 1.
        weight: of the reconstruction; above 5 the paper found training unstable.
        decoder: widths of a decoder's linear layer and of all its convolutions but the last, which makes red, green and
            blue.
    """

    base: Objective

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        base: Annotated[dict[str, Any], "objective"],
        parameters: list[str] = ["angle"],
        intermediates: int = 2,
        equivariant_share: float = 0.5,
        weight: float = 1.0,
        decoder: list[int] = [128, 64, 32, 16],
    ) -> None:
        if not 0 < equivariant_share < 1:
            raise SettingError("equivariant_share", f"must lie between 0 and 1, got {equivariant_share}")
        require_at_least(1, intermediates=intermediates)
        if not decoder or min(decoder) < 1:
            raise SettingError("decoder", f"must name at least one width, all at least 1, got {decoder}")
        require_at_least(0, weight=weight)
        require(bool(parameters), "parameters", f"is empty; views of this data record {', '.join(groups) or 'none'}")
        require_recorded("parameters", parameters, groups)
        equivariant = round(features * equivariant_share)
        if not 0 < equivariant < features:
            problem = f"with {equivariant_share} of {features}, one of the two parts would have no features"
            raise SettingError("equivariant_share", problem)
        super().__init__(base=base_objective(features - equivariant, groups, **base))
        self.features, self.invariant_features, self.weight = features, features - equivariant, weight
        self.path = TransformPath(intermediates, tuple(parameters))
        self._plan, self._first = _plan(self.base.plan, self.path)
        self.decoders = nn.ModuleList(Decoder(2 * equivariant, decoder) for _ in range(intermediates))

    @property
    def plan(self) -> Plan:
        return self._plan

    def adopt(self, backbone: Backbone) -> None:
        super().adopt(backbone)
        for decoder in self.decoders:
            assert isinstance(decoder, Decoder)
            decoder.make(backbone.in_channels)

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        x, y = views.views[self._first : self._first + 2]
        between = views.views[self._first + 2 :][: len(self.decoders)]
        cached = Cached(backbone)
        terms = self.base.loss(self._views_of_base(views), self.given("base", cached))
        maps = torch.cat([cached.whole_map(view.pixels)[:, self.invariant_features :] for view in (x, y)], dim=1)
        error = self.reconstruction(maps, [view.pixels for view in between])
        return beside(terms, {"reconstruction": Term(error, self.weight)})

    @property
    def _numbers_of_base(self) -> list[int]:
        """The numbers of the base's views in the plan."""
        if self._first:
            return [*range(self._first)]
        return [0, 1, *range(self.path.count, self._plan.count)]

    def _views_of_base(self, views: Views) -> Views:
        return replace(views, views=tuple(views[number] for number in self._numbers_of_base))

    def visible_patches(self, views: Views, backbone: Backbone) -> Mapping[int, Tensor]:
        of_base = super().visible_patches(self._views_of_base(views), backbone)
        return {self._numbers_of_base[number]: patches for number, patches in of_base.items()}

    def reconstruction(self, maps: Tensor, images: Sequence[Tensor]) -> Tensor:
        """The mean over decoders of the mean squared error.

        Args:
            maps: equivariant channels of both views, concatenated, `(B, 2 C, h, w)`.
            images: the target of each decoder, `(B, C, H, W)`.
        """
        pairs = zip(self.decoders, images, strict=True)
        return torch.stack(
            [losses.reconstruction_error(decoder(maps, image.shape[-2:]), image) for decoder, image in pairs]
        ).mean()

    def given(self, name: str, backbone: Backbone) -> Backbone:
        return Part(backbone, self.invariant_features)

    def representations(self, backbone: Backbone) -> Encoder:
        return two_parts(backbone, self.invariant_features)

    def aggregation(self, backbone: Backbone) -> Aggregation | None:
        return aggregation_of_part(super().aggregation(backbone), slice(self.invariant_features))


class Decoder(nn.Module):
    """An image from a map: a linear layer at every position, then convolutions, each after an enlargement by the same
    factor.

    Args:
        inputs: channels of the map.
        widths: channels after the linear layer and after every convolution but the last.
    """

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.linear = nn.Conv2d(inputs, widths[0], 1)
        self.convolutions = nn.ModuleList(nn.Conv2d(one, other, 3, padding=1) for one, other in pairwise((*widths, 3)))

    def make(self, channels: int) -> None:
        """Make images of another number of channels than red, green and blue."""
        last = self.convolutions[-1]
        assert isinstance(last, nn.Conv2d)
        if channels != last.out_channels:
            self.convolutions[-1] = nn.Conv2d(last.in_channels, channels, 3, padding=1)

    def forward(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        """Images `(B, C, *size)` from maps `(B, C, h, w)`."""
        decoded: Tensor = self.linear(maps)
        for number, convolution in enumerate(self.convolutions, start=1):
            part = number / len(self.convolutions)
            sides = [
                round(before * (after / before) ** part) for before, after in zip(maps.shape[-2:], size, strict=True)
            ]
            # Not bilinear: its gradient on a GPU differs from run to run.
            decoded = convolution(F.interpolate(decoded.relu(), sides, mode="nearest-exact"))
        return decoded


def _plan(base: Plan, path: TransformPath) -> tuple[Plan, int]:
    """The views of the base and of the path, and how many views of the base come before the path.

    If the base begins with two views of one kind, the path uses these two, and no views come before it.
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
