"""Hypernetworks whose weights do not grow with their input: the magnitude-invariant parametrisation."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def on_circles(fractions: Tensor) -> Tensor:
    """Numbers from 0 to 1 as points of a quarter circle, cosines first: `(B, 2K)` of length sqrt(K) from `(B, K)`.

    This is the input encoding of Ortiz, Guttag, Dalca, "Magnitude invariant parametrizations improve hypernetwork
    learning", ICLR 2024 (2304.07645).
    """
    angles = fractions * (math.pi / 2)
    return torch.cat((angles.cos(), angles.sin()), dim=1)


class BoundedInput(nn.Module):
    """Actions of any size, encoded by `on_circles`.

    The paper's inputs lie between 0 and 1. A number a of an action is taken there by (1 + tanh a) / 2, so none is cut
    off, and numbers that differ stay different.
    """

    def forward(self, action: Tensor) -> Tensor:
        """`(B, 2K)` from actions `(B, K)`."""
        return on_circles((1 + action.tanh()) / 2)


def magnitude_invariant_hypernetwork(widths: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> nn.Sequential:
    """From actions to the weights of another network, all in a row: theta = theta_0 + h(E(a)).

    With piecewise linear layers and biases of zero, weights would be proportional to the action, and so would their
    gradients. The encoding E has a constant length, and theta_0, learnt and without input, begins as the other network
    would begin by itself (ICLR 2024, sec. 4). theta_0 is the bias of the last layer. h is an MLP with leaky ReLU,
    whose initial weights have the variance 2 over fan-out, in the last layer by predicted tensor.

    Because of theta_0, the other network can ignore the action.

    Args:
        widths: dimensions of the encoded action and of the hidden layers.
        shapes: of the predicted tensors, matrices `(outputs, inputs)` and after each its bias, if there is one.
    """
    layers: list[nn.Module] = [BoundedInput()]
    for inputs, outputs in pairwise(widths):
        layer = nn.Linear(inputs, outputs)
        nn.init.kaiming_normal_(layer.weight, a=0.01, mode="fan_out", nonlinearity="leaky_relu")
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.LeakyReLU(0.01)]
    counts = [math.prod(shape) for shape in shapes]
    last = nn.Linear(widths[-1], sum(counts))
    bound = 1.0
    with torch.no_grad():
        parts = zip(shapes, torch.split(last.weight, counts), torch.split(last.bias, counts), strict=True)
        for shape, correction, begun in parts:
            nn.init.kaiming_normal_(correction, a=0.01, mode="fan_out", nonlinearity="leaky_relu")
            # As torch initialises a linear layer: weights and biases within 1 / sqrt(inputs).
            bound = 1 / math.sqrt(shape[1]) if len(shape) == 2 else bound
            nn.init.uniform_(begun, -bound, bound)
    return nn.Sequential(*layers, last)
