"""kornia's own sequences, made with one resampling and one chain of colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import kornia.augmentation as K
import numpy as np
import torch
from kornia.augmentation.container.ops import InputSequentialOps
from kornia.augmentation.container.params import ParamItem
from kornia.constants import DataKey
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_inv.augment import kornia_colour, kornia_geometry
from ssl_inv.augment.kornia_geometry import Route, UnfitError
from ssl_inv.augment.warp import Rows, chosen, put
from ssl_inv.catalogue import require

_CACHED_BYTES = 3_200_000
"""Views that one core works on at a time, as in `Policy.render`."""

_FLIPS = (K.RandomHorizontalFlip, K.RandomVerticalFlip)
_CROPS = (K.RandomCrop, K.CenterCrop)
_BOXES = (K.RandomResizedCrop, K.Resize)


def fuse(sequence: "K.AugmentationSequential | K.ImageSequential", *, exact: bool = False) -> "FusedSequence":
    """The same views as a sequence of kornia's augmentations makes, faster.

    Neighbouring augmentations that move pixels become one resampling, and those of colour behind them one chain that
    touches only the images that they change. The order of the sequence is kept: what moves pixels behind a change of
    colour starts anew, but for flips, which exchange with most. What is not standard runs in kornia, in its place;
    `print` says which. See `FusedSequence`.

    Args:
        sequence: augmentations of kornia.
        exact: whether pixels are interpolated as often as in kornia, so that views are equal but for rounding.
            Otherwise all interpolations in a row become one, which is faster, and sharper than kornia's.

    Raises:
        SettingError: unless it is an `AugmentationSequential` or `ImageSequential` of augmentations of images.
    """
    known = isinstance(sequence, K.ImageSequential) and not isinstance(sequence, K.PatchSequential)
    name = type(sequence).__name__
    require(known, "sequence", f"must be an AugmentationSequential or an ImageSequential, got a {name}")
    unfit = (K.VideoSequential, K.RandomTransplantation, K.AugmentationBase3D)
    foreign = [type(one).__name__ for one in sequence.modules() if isinstance(one, unfit)]
    require(
        not foreign, "sequence", f"has {', '.join(foreign)}, which is no augmentation of images alone; leave it out"
    )
    return FusedSequence(sequence, exact)


@dataclass(frozen=True)
class Segment:
    """Neighbours in a sequence that are made together.

    Attributes:
        items: their positions, in the order of the sequence.
        geometry: those that are one resampling, in their order.
        colours: those that change colours after it, in their order.
        reason: why kornia makes them; empty if they are fused.
    """

    items: tuple[int, ...]
    geometry: tuple[int, ...] = ()
    colours: tuple[int, ...] = ()
    reason: str = ""


def obstacle(module: nn.Module) -> str:
    """Why a module has to run in kornia; empty if it can be fused."""
    if type(module) in kornia_geometry.STEPS:
        found = kornia_geometry.obstacle(module)
    elif type(module) in kornia_colour.CHANGES:
        found = kornia_colour.obstacle(module)
    else:
        return "not standard"
    return f"its {found}" if found else ""


def segments_of(modules: Sequence[nn.Module], exact: bool = False) -> list[Segment]:
    """The segments of a sequence; see `fuse`."""
    found: list[Segment] = []
    for number, module in enumerate(modules):
        last = found[-1] if found else Segment((), reason="nothing yet")
        reason = obstacle(module)
        if reason:
            found.append(Segment((number,), reason=reason))
        elif last.reason:
            found.append(_begun(number, module))
        elif type(module) in kornia_colour.CHANGES:
            found[-1] = Segment((*last.items, number), last.geometry, (*last.colours, number))
        elif _joins(module, [modules[one] for one in last.geometry], [modules[one] for one in last.colours], exact):
            found[-1] = Segment((*last.items, number), (*last.geometry, number), last.colours)
        else:
            found.append(_begun(number, module))
    return found


def _begun(number: int, module: nn.Module) -> Segment:
    moves = type(module) in kornia_geometry.STEPS
    return Segment((number,), geometry=(number,) if moves else (), colours=() if moves else (number,))


def _joins(module: nn.Module, geometry: Sequence[nn.Module], colours: Sequence[nn.Module], exact: bool) -> bool:
    """Whether an augmentation that moves pixels can become part of a segment."""
    if isinstance(module, _FLIPS):
        return not any(isinstance(one, kornia_colour.PLACED) for one in colours)
    if not exact or isinstance(module, _CROPS):
        return not colours
    harmless = (*_FLIPS, *_CROPS) if isinstance(module, _BOXES) else _FLIPS
    return not colours and all(isinstance(one, harmless) for one in geometry)


class FusedSequence(nn.Module):
    """A sequence of kornia's augmentations in fewer passes; `fuse` makes it.

    It is called as the sequence is. Without `params` the original modules draw, so one seed gives the views that it
    gives the original; `params` are those of the original (`ParamItem`s). Views are equal but for rounding and the
    outer weights of wide blurs, together below 2 / 255, unless several interpolations become one. Masks, boxes, key
    points and classes are made by the original, from the same parameters; so are `inverse`, and images that need a
    gradient, have another number of channels than three, double precision, or no batch dimension.

    Images are `(B, 3, H, W)`; colours are meant to be in [0, 1]. Half precision is computed in single precision.

    Args:
        original: the sequence, which it keeps.
        exact: see `fuse`.
    """

    def __init__(self, original: Any, exact: bool = False) -> None:
        super().__init__()
        self.original, self.exact = original, exact
        self._params: list[ParamItem] | None = None

    def __repr__(self) -> str:
        if self.original.random_apply:
            return f"{type(self).__name__}(random_apply={self.original.random_apply}, of {self.original})"
        modules = list(self.original.children())
        lines = []
        for segment in segments_of(modules, self.exact):
            names = [type(modules[one]).__name__ for one in segment.items]
            moves = ", ".join(type(modules[one]).__name__ for one in segment.geometry)
            colours = ", ".join(type(modules[one]).__name__ for one in segment.colours)
            parts = [f"resampled once: {moves}"] * bool(moves) + [f"coloured: {colours}"] * bool(colours)
            lines.append(f"kornia: {names[0]} ({segment.reason})" if segment.reason else "; ".join(parts))
        return "\n".join((f"{type(self).__name__}(", *(f"  {line}" for line in lines), ")"))

    def forward(self, *args: Any, params: list[ParamItem] | None = None, data_keys: Sequence[Any] | None = None) -> Any:
        """Views, with masks, boxes, key points and classes as the original returns them.

        Args:
            *args: what `data_keys` name, or one dictionary.
            params: what to apply; None draws.
            data_keys: of this call; None is those of the original.
        """
        if len(args) == 1 and isinstance(args[0], dict):
            keys_of = {name: key for name in args[0] if (key := _data_key(name))}
            found = self.forward(*(args[0][name] for name in keys_of), params=params, data_keys=list(keys_of.values()))
            return {**args[0], **dict(zip(keys_of, found if len(keys_of) > 1 else [found], strict=True))}
        names = data_keys or getattr(self.original, "data_keys", None) or [DataKey.INPUT]
        keys = [DataKey.get(name) for name in names]
        if not self._can_fuse(args, keys):
            more = {} if data_keys is None else {"data_keys": data_keys}
            found = self.original(*args, params=params, **more)
            self._params = self.original._params
            return found
        place = keys.index(DataKey.INPUT)
        params = self.original.forward_parameters(args[place].shape) if params is None else params
        found = list(args)
        found[place] = self._views(args[place], params)
        if others := [one for one in range(len(args)) if one != place]:
            rest = self.original(*(args[one] for one in others), params=params, data_keys=[keys[one] for one in others])
            for one, value in zip(others, rest if len(others) > 1 else [rest], strict=True):
                found[one] = value
        self._params = self.original._params = params
        return found if len(found) > 1 else found[0]

    def inverse(self, *args: Any, params: list[ParamItem] | None = None, **kwargs: Any) -> Any:
        """What the original's `inverse` gives, by default for the parameters of the last call."""
        return self.original.inverse(*args, params=self._params if params is None else params, **kwargs)

    def transform_matrix(self, images: Tensor, params: list[ParamItem] | None = None) -> Tensor | None:
        """From the pixels of the images to those of their views, `(B, 3, 3)`, in kornia's convention.

        Args:
            images: as they were given; only their shape, dtype and device count.
            params: of the views, by default those of the last call.
        """
        drawn = self._params if params is None else params
        found: Tensor | None = self.original.get_transformation_matrix(images, drawn, recompute=True)
        return found

    def _can_fuse(self, args: Sequence[Any], keys: Sequence[Any]) -> bool:
        if len(args) != len(keys) or keys.count(DataKey.INPUT) != 1:
            return False
        if DataKey.INPUT in getattr(self.original, "extra_args", {}):
            return False
        pixels = args[keys.index(DataKey.INPUT)]
        if not isinstance(pixels, Tensor) or pixels.dim() != 4 or pixels.shape[1] != 3 or not len(pixels):
            return False
        masks = [value for value, key in zip(args, keys, strict=True) if key == DataKey.MASK]
        if any(not isinstance(mask, Tensor) or mask.shape[-2:] != pixels.shape[-2:] for mask in masks):
            return False
        trained = pixels.requires_grad and torch.is_grad_enabled()
        return not trained and pixels.dtype in (torch.float32, torch.float16, torch.bfloat16)

    def _views(self, pixels: Tensor, params: list[ParamItem]) -> Tensor:
        modules = [self.original.get_submodule(item.name) for item in params]
        for segment in segments_of(modules, self.exact):
            try:
                made = None if segment.reason else _fused(segment, modules, [item.data for item in params], pixels)
            except UnfitError:
                made = None
            if made is None:
                for one in segment.items:
                    pixels = InputSequentialOps.transform(pixels, modules[one], params[one], {})
            else:
                pixels = made
        return pixels


def _fused(segment: Segment, modules: Sequence[Any], params: Sequence[Any], pixels: Tensor) -> Tensor:
    """The images after a segment.

    Raises:
        UnfitError: if kornia has to make them.
    """
    count, size = len(pixels), (int(pixels.shape[-2]), int(pixels.shape[-1]))
    drawn = {one: _on_host(params[one]) for one in segment.items}
    steps = []
    for one in segment.geometry:
        if step := kornia_geometry.step_of(modules[one], drawn[one], count, size):
            steps.append(step)
            size = step.size
    route = Route(steps, count, (int(pixels.shape[-2]), int(pixels.shape[-1])))
    active = {one: kornia_geometry.applied(modules[one], drawn[one], count) for one in segment.colours}
    views = torch.empty(count, 3, *size, device=pixels.device, dtype=pixels.dtype)
    with torch.inference_mode(), torch.autocast(pixels.device.type, enabled=False):
        source = pixels.float()
        for rows in _portions(list(active.values()), count, size, pixels.device):
            made = route.sample(source, rows)
            for one in segment.colours:
                if len(some := np.flatnonzero(active[one][rows])):
                    with chosen(made, some) as part:
                        numbers = kornia_colour.chosen_params(drawn[one], torch.from_numpy(rows[some]), count)
                        kornia_colour.CHANGES[type(modules[one])](modules[one], numbers, part)
            put(views, rows, made.to(views.dtype))
    return views


def _on_host(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Numbers are looked at on the host, wherever they were drawn; noise is as large as the images and stays."""
    return {name: value if name == "gaussian_noise" else value.cpu() for name, value in params.items()}


def _portions(
    active: Sequence[NDArray[np.bool_]], count: int, size: tuple[int, int], device: torch.device
) -> list[Rows]:
    """All rows, in parts that fit into a core's cache, sorted so that neighbours change alike."""
    order = np.lexsort(active[::-1]) if active else np.arange(count)
    portion = count
    if device.type == "cpu":
        portion = max(1, _CACHED_BYTES * torch.get_num_threads() // (12 * size[0] * size[1]))
    return [order[first : first + portion] for first in range(0, count, portion)]


def _data_key(name: str) -> Any:
    """What kornia takes a value of a dictionary for, by its name: that of a data key, or one with a suffix."""
    for known in sorted(DataKey.__members__, key=len, reverse=True):
        if name.upper() == known or name.upper().startswith((f"{known}_", f"{known}-")):
            return DataKey.get(known)
    return None
