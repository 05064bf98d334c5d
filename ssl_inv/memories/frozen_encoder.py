"""A trained network from the user's disk that encodes and does not learn."""

from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import RecipeError, SettingError, require, suggest
from ssl_inv.memories.gallery import Gallery
from ssl_inv.nn.exported import read_config
from ssl_inv.nn.torch_files import require_stored


class FrozenEncoder:
    """A timm network with weights from disk, and the preprocessing of its inputs. Nothing is downloaded.

    It is no module, so no checkpoint holds it.

    Args:
        path: a folder with `config.json` and weights, as `ssl-inv` exports it and timm saves it; or a file of weights.
        architecture: the timm name of the network in a file of weights; a folder names its own.

    Raises:
        FileNotFoundError: if nothing is at `path`, or no exported network.
        SettingError: if the architecture is missing, unknown, or does not fit the weights.
    """

    def __init__(self, path: str, architecture: str | None = None) -> None:
        place = Path(path).expanduser()
        require_network(place)
        named = f"{str(place)!r} is a folder, which names its own architecture; leave it out"
        require(architecture is None or not place.is_dir(), "teacher_architecture", named)
        missing = f"must name the timm network whose weights {str(place)!r} holds"
        require(architecture is not None or not place.is_file(), "teacher_architecture", missing)
        if architecture is not None and not timm.is_model(architecture.split(".")[0]):
            known = suggest(architecture, timm.list_models())
            raise SettingError("teacher_architecture", f"timm has no model called {architecture!r}; {known}")
        self.network = _loaded(place, architecture).eval().requires_grad_(False)
        config: dict[str, Any] = self.network.pretrained_cfg  # type: ignore[assignment]
        self.mean, self.std = (torch.tensor(config[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
        self.size = int(config["input_size"][-1])

    def gallery(self, gallery: Gallery) -> Gallery:
        """The gallery with this network's preprocessing; moves the network to the gallery's device."""
        self.network.to(gallery.device)
        return Gallery(gallery.source, self.prepare, gallery.device, gallery.batch_size, gallery.workers)

    def prepare(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1], resized and normalised as in the network's training."""
        if max(pixels.shape[-2:]) != self.size:
            pixels = F.interpolate(pixels, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        return (pixels - self.mean.to(pixels)) / self.std.to(pixels)


def require_network(place: Path) -> None:
    """Raise a FileNotFoundError unless a path is a file or a folder with a network; the message names the run's export
    if there is one.
    """
    if place.is_file() or (place / "config.json").is_file():
        return
    tail = f"; did you mean {str(place / 'export')!r}?" if (place / "export" / "config.json").is_file() else ""
    what = "is no exported network, it has no config.json" if place.is_dir() else "does not exist"
    raise FileNotFoundError(f"teacher_path: {str(place)!r} {what}{tail}")


def _loaded(place: Path, architecture: str | None) -> nn.Module:
    try:
        # timm draws random weights before it loads the file's.
        with torch.random.fork_rng(devices=[]):
            if architecture is None:
                read_config(place)
                return timm.create_model(f"local-dir:{place}", pretrained=True, num_classes=0)
            if place.suffix != ".safetensors":
                require_stored(place)
            overlay = {"file": str(place), "hf_hub_id": None, "url": None}
            return timm.create_model(architecture, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0)
    except RecipeError:
        raise
    except Exception as error:  # timm's errors about an unexpected file have no common class
        first = next(iter(str(error).splitlines()), "")
        raise SettingError(
            "teacher_path", f"{str(place)!r} cannot be loaded: {error.__class__.__name__}: {first}"
        ) from error
