"""Images of any shape as squares without a cut: the sides are scaled by themselves. For data whose annotations lie
anywhere in an image.
"""

import cv2
import numpy as np

from ssl_inv.data.decoding import Pixels
from ssl_inv.data.image_files import ImageFiles


class SquashedFiles(ImageFiles):
    """Image files that `load` gives whole, as squares."""

    def _decode(self, image: int, size: int | None) -> Pixels:
        whole = super()._decode(image, None)
        if size is None or whole.shape[:2] == (size, size):
            return whole
        shrinks = min(whole.shape[:2]) > size
        squashed = cv2.resize(whole, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        return np.asarray(squashed).reshape(size, size, -1)
