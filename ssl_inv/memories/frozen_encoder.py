"""A trained network from a file of the user's, which encodes and does not learn."""

from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ssl_inv.nn.stems  # noqa: F401 - registers architectures that exported folders name
from ssl_inv.catalogue import SettingError, suggest
from ssl_inv.memories.gallery import Gallery


class FrozenEncoder:
    """A timm network with weights from disk, and what images go through before it sees them; nothing is downloaded.

    It is no module, so that no checkpoint of whoever uses it grows by it.

    Args:
        path: a folder with `config.json` and the weights, as `ssl-inv` exports it and as timm saves it; or a file of
        weights.
        architecture: the timm name of the network whose weights the file holds; folders say it themselves.

    Raises:
        FileNotFoundError: if there is nothing at `path`, or no exported network.
        ValueError: if the architecture is missing, unknown or not the one of the weights.
    """

    def __init__(self, path: str, architecture: str | None = None) -> None:
        place = Path(path).expanduser()
        require_network(place)
        if place.is_dir() and architecture is not None:
            raise SettingError(
                "teacher_architecture", f"{str(place)!r} is a folder, which names its own architecture; leave it out"
            )
        if place.is_file() and architecture is None:
            raise SettingError("teacher_architecture", f"must name the timm network whose weights {str(place)!r} holds")
        if architecture is not None and not timm.is_model(architecture.split(".")[0]):
            known = suggest(architecture, timm.list_models())
            raise SettingError("teacher_architecture", f"timm has no model called {architecture!r}; {known}")
        self.network = _loaded(place, architecture).eval().requires_grad_(False)
        config: dict[str, Any] = self.network.pretrained_cfg  # type: ignore[assignment]
        self.mean, self.std = (torch.tensor(config[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
        self.size = int(config["input_size"][-1])

    def gallery(self, gallery: Gallery) -> Gallery:
        """The images of a gallery as this network expects them, with the network on their device."""
        self.network.to(gallery.device)
        return Gallery(gallery.source, self.prepare, gallery.device, gallery.batch_size, gallery.workers)

    def prepare(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] in the size of the network's training, normalised as there."""
        if max(pixels.shape[-2:]) != self.size:
            pixels = F.interpolate(pixels, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        return (pixels - self.mean.to(pixels)) / self.std.to(pixels)


def require_network(place: Path) -> None:
    """Raise a FileNotFoundError unless there is a file, or a folder with a network, at a path; the run's export is
    named if it is there.
    """
    if place.is_file() or (place / "config.json").is_file():
        return
    tail = f"; did you mean {str(place / 'export')!r}?" if (place / "export" / "config.json").is_file() else ""
    what = "is no exported network, it has no config.json" if place.is_dir() else "does not exist"
    raise FileNotFoundError(f"teacher_path: {str(place)!r} {what}{tail}")


def _loaded(place: Path, architecture: str | None) -> nn.Module:
    try:
        # Random weights are drawn before those of the file are loaded.
        with torch.random.fork_rng(devices=[]):
            if architecture is None:
                return timm.create_model(f"local-dir:{place}", pretrained=True, num_classes=0)
            overlay = {"file": str(place), "hf_hub_id": None, "url": None}
            return timm.create_model(architecture, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0)
    except Exception as error:  # what timm raises of a file that is not what it expects has no common class
        first = next(iter(str(error).splitlines()), "")
        raise SettingError(
            "teacher_path", f"{str(place)!r} cannot be loaded: {error.__class__.__name__}: {first}"
        ) from error
