"""A run as its folder has it: recipe, weights and memories."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ssl_inv.catalogue import RecipeError, within
from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.objectives.base import Objective
from ssl_inv.run.build import build_augmentation, build_networks
from ssl_inv.run.exports.export import Preprocessing, first_detail, preprocessing_of
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.recipe import Recipe
from ssl_inv.transforms import Group


@dataclass(frozen=True)
class SavedRun:
    """A run as its folder has it. Its data is not needed.

    Attributes:
        folder: its folder.
        recipe: every setting.
        state: the content of the checkpoint, the last one unless the folder is at another.
    """

    folder: RunFolder
    recipe: Recipe
    state: dict[str, Any]

    @classmethod
    def open(cls, folder: RunFolder) -> "SavedRun":
        """Read recipe and checkpoint.

        Raises:
            RecipeError: if the run has no checkpoint, or one that is damaged or of another recipe.
        """
        recipe, state = folder.recipe(), folder.load_checkpoint()
        if state is None:
            raise RecipeError(f"{str(folder.path)!r} has no checkpoint yet")
        # What is evaluated depends on no setting of the evaluation that the run did.
        folder.require_own(state, recipe, {"evaluation": None})
        return cls(folder, recipe, state)

    def backbone(self) -> Backbone:
        """A new copy of the trained backbone."""
        with within("backbone"):
            backbone = make_backbone(**self.recipe.backbone)
        with self._fitting():
            backbone.load_state_dict(self.state["backbone"])
        return backbone

    def load_into(self, backbone: Backbone, objective: Objective) -> None:
        """Give networks of the run's recipe their trained weights, and the objective its memories."""
        with self._fitting():
            objective.allocate(*self.state["extent"])
            backbone.load_state_dict(self.state["backbone"])
            objective.load_state_dict(self.state["objective"])

    @contextmanager
    def _fitting(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Another's checkpoint may hold anything.
            problem = f"its weights do not fit the run's recipe: {first_detail(error)}"
            raise RecipeError(f"{str(self.folder.checkpoint_file)!r}: {problem}") from error

    def groups(self) -> dict[str, Group]:
        """The recorded parameters of views; none if the checkpoint lacks them."""
        try:
            return {name: Group.from_record(record) for name, record in (self.state["groups"] or {}).items()}
        except ValueError as error:
            raise RecipeError(f"{str(self.folder.checkpoint_file)!r}: {error}") from error

    def objective(self) -> Objective | None:
        """A new copy of the objective, with initial weights; None if the checkpoint lacks its groups."""
        return None if self.state["groups"] is None else build_networks(self.recipe, self.groups())[1]

    @property
    def image_size(self) -> int:
        """Side of the images, in pixels."""
        return int(self.state["image_size"])

    @property
    def preprocessing(self) -> Preprocessing:
        """How the run prepared whole images."""
        view_size = build_augmentation(self.recipe).view_size(self.image_size)
        return preprocessing_of(self.recipe.normalization, view_size, self.image_size, self.recipe.data.settings)
