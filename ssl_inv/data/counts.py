"""How many views objects have, and which images these are among all."""

import numpy as np

from ssl_inv.data.source import Indices


class ViewCounts:
    """Images numbered object by object. Where all objects have equally many, only that number is kept: for ten million
    plain images, two arrays in every process would take 160 MB.

    Args:
        counts: how many views each object has, `(N,)`.

    Attributes:
        images: how many there are.
        of_objects: `counts`, not to be written to.
    """

    def __init__(self, counts: Indices) -> None:
        counts = np.asarray(counts)
        self._objects = len(counts)
        equal = bool(len(counts)) and bool((counts == counts[0]).all())
        self._each = int(counts[0]) if equal else None
        self._starts = None if equal else np.concatenate((np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)))
        self.images = self.first_image(self._objects)

    @property
    def of_objects(self) -> Indices:
        if self._starts is None:
            return np.broadcast_to(np.int64(self._each or 0), (self._objects,))
        return np.diff(self._starts)

    @property
    def first_images(self) -> Indices:
        """The number of view 0 of every object, `(N,)`."""
        return np.arange(self._objects) * (self._each or 0) if self._starts is None else self._starts[:-1]

    def first_image(self, item: int) -> int:
        """The number of view 0 of an object."""
        return item * (self._each or 0) if self._starts is None else int(self._starts[item])

    def images_of(self, objects: Indices, views: Indices) -> Indices:
        """The numbers of some views among all images.

        Raises:
            ValueError: if an object or a view does not exist.
        """
        if wrong := ((objects < 0) | (objects >= self._objects)).nonzero()[0].tolist():
            raise ValueError(f"there is no object {objects[wrong[0]]}; the last one is {self._objects - 1}")
        if self._starts is None:
            counts = np.full(len(objects), self._each, dtype=np.int64)
            images = objects * counts + views
        else:
            images, counts = self._starts[objects] + views, self._starts[objects + 1] - self._starts[objects]
        if wrong := ((views < 0) | (views >= counts)).nonzero()[0].tolist():
            last = f"its last one is {counts[wrong[0]] - 1}"
            raise ValueError(f"object {objects[wrong[0]]} has no view {views[wrong[0]]}; {last}")
        return images
