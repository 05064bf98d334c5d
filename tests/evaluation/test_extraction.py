"""Claims about taking features out of an encoder: it stays as it was, sees what it may see, and gives features or is
refused.
"""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_inv.evaluation import EvaluationBatch, extract


class Encoder(nn.Module):
    """A network whose output depends on the mode of its batch norm and of its dropout."""

    def __init__(self) -> None:
        super().__init__()
        first = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5))
        self.body = nn.Sequential(*first, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.calls = 0

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        encoded = self.body(pixels)
        return {"all": encoded, "equivariant": encoded[:, 4:]}


def batches(size: int) -> list[EvaluationBatch]:
    pixels, rows = torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(10)
    return [EvaluationBatch(pixels[part], part // 2, part % 2, part // 2 % 3) for part in torch.split(rows, size)]


def test_extraction_leaves_the_encoder_as_it_was() -> None:
    encoder = Encoder().train()
    encoder.body[1].eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        table = extract(encoder, batches(4))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert [one.training for one in (encoder, encoder.body[2], encoder.body[1])] == [True, True, False]
    assert table.part("equivariant").shape == (10, 4)
    encoder.eval()
    with torch.no_grad():
        expected = torch.cat([encoder(batch.pixels)["all"] for batch in batches(10)])
    torch.testing.assert_close(table.part("all"), expected)


@pytest.mark.parametrize("wrap", [lambda e: (e.forward, None), lambda e: (lambda pixels: e(pixels)["all"], e)])
def test_the_network_behind_a_function_is_put_into_evaluation_mode(wrap: Callable[[Encoder], Any]) -> None:
    encoder = Encoder().train()
    function, module = wrap(encoder)
    table = extract(function, batches(3), module=module)
    torch.testing.assert_close(table.part("all"), extract(encoder, batches(10)).part("all"))


def test_the_cache_is_read_instead_of_the_images(tmp_path: Path) -> None:
    encoder = Encoder()
    first = extract(encoder, batches(5), cache=tmp_path / "features.safetensors")
    calls = encoder.calls
    second = extract(encoder, batches(5), cache=tmp_path / "features.safetensors")
    assert encoder.calls == calls
    assert torch.equal(first.part("all"), second.part("all"))
    assert torch.equal(first.known_labels(), second.known_labels())
    assert [path.name for path in tmp_path.iterdir()] == ["features.safetensors"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda pixels: pixels, r"part 'all' has shape \(5, 3, 8, 8\)"),
        (lambda pixels: pixels.flatten(1).log(), "part 'all' is not finite for object 0, view 0"),
    ],
)
def test_encoders_that_give_no_features_are_refused(output: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extract(output, batches(5))


def test_nothing_outside_the_disk_reaches_the_encoder() -> None:
    seen = extract(lambda pixels: pixels.abs().mean(dim=1).flatten(1), batches(10), disk=True).part("all")
    seen = seen.view(10, 8, 8)
    # Nor do the sides, where an image that was turned is mixed with what is beyond it.
    assert (seen[:, [0, 7, 3, 3, 1], [3, 3, 0, 7, 1]] == 0).all()
    assert (seen[:, 4, 1:-1] > 0).all()


def test_pixels_are_let_go_when_their_features_are_known() -> None:
    alive: list[weakref.ref[Tensor]] = []

    def counted(pixels: Tensor) -> Tensor:
        alive.append(weakref.ref(pixels))
        assert sum(one() is not None for one in alive) <= 2
        return pixels.mean((2, 3))

    extract(counted, (replace(batch, pixels=batch.pixels.clone()) for batch in batches(2)))
