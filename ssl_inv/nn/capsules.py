"""Capsules on a feature map: each has an activation, how much it is there, and a pose, how it is seen."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssl_inv.catalogue import SettingError, require_at_least


class Capsules(NamedTuple):
    """Some capsules of every sample.

    Attributes:
        activations: `(B, K)`, above 0; those of a routed layer sum to 1.
        poses: `(B, K, P)`.
    """

    activations: Tensor
    poses: Tensor


class SelfRouting(nn.Module):
    """Capsules that decide by themselves where they send their pose (Hahn, Pyeon, Kim, "Self-routing capsule networks",
    NeurIPS 2019).

    Capsule i with activation a_i and pose p_i votes W_ij p_i for the pose of capsule j, and routes to it the share
    r_ij = softmax_j(w_ij . p_i + b_ij). Then

        a_j = sum_i a_i r_ij / sum_i a_i,    p_j = sum_i a_i r_ij W_ij p_i / sum_i a_i r_ij.

    Routing begins uniform. The B x I x J x P votes are made again in the backward pass instead of being kept.

    Args:
        inputs: I, capsules that come in.
        outputs: J, capsules that go out.
        pose: P, numbers in a pose.
    """

    def __init__(self, inputs: int, outputs: int, pose: int) -> None:
        super().__init__()
        self.votes = nn.Parameter(torch.empty(inputs, outputs * pose, pose))
        self.routing = nn.Parameter(torch.zeros(inputs, outputs, pose))
        self.bias = nn.Parameter(torch.zeros(inputs, outputs))
        nn.init.kaiming_uniform_(self.votes)

    def forward(self, capsules: Capsules) -> Capsules:
        """The J capsules that the I of `capsules` agree on."""
        routed = checkpoint(self._route, *capsules, use_reentrant=False, preserve_rng_state=False)
        return Capsules(*routed)

    def _route(self, activations: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
        inputs, outputs, pose = self.routing.shape
        routes = (torch.einsum("bip,ijp->bij", poses, self.routing) + self.bias).softmax(dim=2)
        sent = activations.to(routes.dtype).unsqueeze(2) * routes
        received = sent.sum(dim=1)
        votes = torch.einsum("bid,ijpd->bijp", poses, self.votes.view(inputs, outputs, pose, pose))
        # A capsule to which nothing is sent, its shares being too small for the number format, has the pose zero.
        agreed = (sent.unsqueeze(3) * votes).sum(dim=1) / received.clamp_min(
            torch.finfo(received.dtype).tiny
        ).unsqueeze(2)
        return received / received.sum(dim=1, keepdim=True), agreed


class CapsuleProjector(nn.Module):
    """From a feature map to a few capsules of the whole image: the projector of CapsIE and EquiCaps.

    Two 3x3 convolutions with batch normalisation make K capsules at every place of the map, with activations between 0
    and 1; one self-routing layer over all places makes K capsules of them. A weight of the routing belongs to one
    place, so maps have one size.

    Args:
        channels: of the feature map.
        capsules: K.
        pose: P, numbers in a pose.
        side: of the feature map.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(self, channels: int, capsules: int, pose: int, side: int) -> None:
        super().__init__()
        require_at_least(2, capsules=capsules)
        require_at_least(1, map_side=side)
        self.pose, self.side = pose, side
        self.activation = nn.Sequential(
            nn.Conv2d(channels, capsules, 3, padding=1, bias=False), nn.BatchNorm2d(capsules), nn.Sigmoid()
        )
        self.poses = nn.Sequential(
            nn.Conv2d(channels, capsules * pose, 3, padding=1, bias=False), nn.BatchNorm2d(capsules * pose)
        )
        self.routing = SelfRouting(side * side * capsules, capsules, pose)

    def forward(self, feature_map: Tensor) -> Capsules:
        """K capsules, at least float32, of feature maps `(B, C, side, side)`.

        Raises:
            ValueError: if the maps have another size.
        """
        height, width = feature_map.shape[-2:]
        if (height, width) != (self.side, self.side):
            raise SettingError(
                "map_side",
                f"{self.side}, but the backbone's feature maps of these images have {height} x {width} places",
            )
        activations = self.activation(feature_map).permute(0, 2, 3, 1).flatten(1)
        poses = self.poses(feature_map).permute(0, 2, 3, 1).reshape(len(feature_map), -1, self.pose)
        return self.routing(Capsules(activations, poses))  # type: ignore[no-any-return]
