"""Capsules on a feature map. Each has an activation (is the entity there?) and a pose (how is it seen?)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssl_inv.catalogue import require, require_at_least


class Capsules(NamedTuple):
    """K capsules of every sample.

    Attributes:
        activations: `(B, K)`, above 0; in a routed layer they sum to 1.
        poses: `(B, K, P)`.
    """

    activations: Tensor
    poses: Tensor


class SelfRouting(nn.Module):
    """Capsules that route their own poses (Hahn, Pyeon, Kim, "Self-routing capsule networks", NeurIPS 2019).

    Capsule i with activation a_i and pose p_i votes W_ij p_i for the pose of capsule j and routes to it the share
    r_ij = softmax_j(w_ij . p_i + b_ij). Then

        a_j = sum_i a_i r_ij / sum_i a_i,    p_j = sum_i a_i r_ij W_ij p_i / sum_i a_i r_ij.

    Routing is uniform at first. The backward pass computes the B x I x J x P votes again instead of keeping them.

    Args:
        inputs: I, the number of input capsules.
        outputs: J, the number of output capsules.
        pose: P, the size of a pose.
    """

    def __init__(self, inputs: int, outputs: int, pose: int) -> None:
        super().__init__()
        self.votes = nn.Parameter(torch.empty(inputs, outputs * pose, pose))
        self.routing = nn.Parameter(torch.zeros(inputs, outputs, pose))
        self.bias = nn.Parameter(torch.zeros(inputs, outputs))
        nn.init.kaiming_uniform_(self.votes)

    def forward(self, capsules: Capsules) -> Capsules:
        """The J output capsules of I input capsules."""
        routed = checkpoint(self._route, *capsules, use_reentrant=False, preserve_rng_state=False)
        return Capsules(*routed)

    def _route(self, activations: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
        inputs, outputs, pose = self.routing.shape
        routes = (torch.einsum("bip,ijp->bij", poses, self.routing) + self.bias).softmax(dim=2)
        sent = activations.to(routes.dtype).unsqueeze(2) * routes
        received = sent.sum(dim=1)
        votes = torch.einsum("bid,ijpd->bijp", poses, self.votes.view(inputs, outputs, pose, pose))
        # If all shares of a capsule underflow, its pose is zero.
        agreed = (sent.unsqueeze(3) * votes).sum(dim=1) / received.clamp_min(
            torch.finfo(received.dtype).tiny
        ).unsqueeze(2)
        return received / received.sum(dim=1, keepdim=True), agreed


class CapsuleProjector(nn.Module):
    """The projector of CapsIE and EquiCaps: from a feature map to K capsules of the whole image.

    Two 3x3 convolutions with batch normalisation make K capsules at every position of the map, with activations between
    0 and 1. One self-routing layer over all positions makes K capsules from them. Each position has its own routing
    weights, so all maps need the same size.

    Args:
        channels: of the feature map.
        capsules: K.
        pose: P, the size of a pose.
        side: side of the feature map.

    Raises:
        SettingError: if a number is out of its range.
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

    def require_places(self, height: int, width: int) -> None:
        """Raise a `SettingError` if feature maps have another size."""
        problem = f"{self.side}, but the backbone's feature maps of these images have {height} x {width} places"
        require((height, width) == (self.side, self.side), "map_side", problem)

    def forward(self, feature_map: Tensor) -> Capsules:
        """K capsules, at least float32, of feature maps `(B, C, side, side)`.

        Raises:
            SettingError: if the maps have another size.
        """
        self.require_places(feature_map.shape[2], feature_map.shape[3])
        activations = self.activation(feature_map).permute(0, 2, 3, 1).flatten(1)
        poses = self.poses(feature_map).permute(0, 2, 3, 1).reshape(len(feature_map), -1, self.pose)
        return self.routing(Capsules(activations, poses))  # type: ignore[no-any-return]
