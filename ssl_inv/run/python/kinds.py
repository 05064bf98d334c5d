"""What the functions of the Python interface take, for type checkers and readers."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import Dataset

from ssl_inv.data.source import Data, Source
from ssl_inv.evaluation.protocols.base import Protocol

Place = str | os.PathLike[str]

AnyData = Place | Mapping[str, Any] | Tensor | np.ndarray[Any, Any] | Dataset[Any] | Sequence[Any] | Source | Data
"""Data: a recipe, or a data set, folder, zip, tar or file by name or path; a section `data` of a recipe; or in
memory: an array `(N, H, W, 3)` or a tensor `(N, 3, H, W)` of images, uint8 or float in [0, 1], a pair `(images,
classes)`, a torch dataset or a list of images or of pairs, a source, or `{"train": ..., "validation": ...}` of these.
"""

AnyEncoder = Place | nn.Module | Callable[[Tensor], Any]
"""An encoder: a run or its folder, an exported folder, `timm:NAME`, what `ssl_inv.load` gives, or any module or
function from pixels `(B, 3, H, W)` to features `(B, D)`, or to features by part, of which one is `all`. Pixels of
modules of timm are normalised as these say; others are in [0, 1], unless settings say how to normalise them.
"""

AnyProtocols = str | Protocol | Sequence[str | Protocol] | Mapping[str, Protocol]
"""Protocols: `quick`, `full`, names such as `linear`, or protocols themselves."""
