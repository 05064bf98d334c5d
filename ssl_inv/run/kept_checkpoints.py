"""The checkpoints in the folder of a run: the last, the one before it, the best, and further ones.

torch is imported only where one is read, so that the command line refuses a wrong folder at once.
"""

import os
from pathlib import Path
from typing import Any, Self

from ssl_inv.atomic import keep_before, link_or_copy
from ssl_inv.catalogue import RecipeError, suggest


class KeptCheckpoints:
    """The checkpoints of a run.

    Args:
        path: the folder of the run.

    Attributes:
        path: the folder of the run.
        checkpoint_file: the one that is meant, by default the last.
        previous_file: the one before the last. It takes the place of a damaged one.
        best_file: the one with the best score, if the recipe says in what.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint_file = path / "checkpoints" / "last.ckpt"
        self.previous_file = path / "checkpoints" / "previous.ckpt"
        self.best_file = path / "checkpoints" / "best.ckpt"

    @property
    def has_checkpoint(self) -> bool:
        """Whether the run can go on from a checkpoint."""
        return self.checkpoint_file.is_file() or (self.at_end and self.previous_file.is_file())

    def keep_previous(self) -> None:
        """Let the last checkpoint be the one before it, as a new one is about to be written. Nothing is copied."""
        if self.checkpoint_file.is_file():
            keep_before(self.checkpoint_file, self.previous_file)

    def keep_checkpoint(self, step: int, count: int) -> None:
        """Keep the last checkpoint, which is of `step`, beside the `count` - 1 before it, and remove older ones."""
        folder = self.checkpoint_file.parent
        if count > 1:
            link_or_copy(self.checkpoint_file, folder / f"step-{step}.ckpt")
        numbers = sorted(int(one.stem.removeprefix("step-")) for one in folder.glob("step-*.ckpt"))
        for number in numbers[: max(0, len(numbers) - count) if count > 1 else None]:
            (folder / f"step-{number}.ckpt").unlink()

    def checkpoints(self) -> dict[str, Path]:
        """The checkpoints that the recipe asks for by name: `last`, `best`, `step-100`."""
        every = sorted((self.path / "checkpoints").glob("*.ckpt"))
        return {one.stem: one for one in every if one != self.previous_file}

    def at_checkpoint(self, name: str) -> Self:
        """The same folder, whose checkpoint is another one that was kept.

        Args:
            name: `last`, `best`, `previous`, or the number of a step.

        Raises:
            RecipeError: if there is none of that name.
        """
        name = f"step-{name}" if name.isdecimal() else name
        there = self.checkpoints()
        if name == "previous" and self.previous_file.is_file():
            there[name] = self.previous_file
        if not there:
            raise RecipeError(f"{str(self.path)!r} has no checkpoint yet")
        if name not in there:
            raise RecipeError(f"{str(self.path)!r} has no checkpoint {name!r}; {suggest(name, there)}")
        other = type(self)(self.path)
        other.checkpoint_file = there[name]
        return other

    def last_good(self) -> tuple[dict[str, Any], str]:
        """The content of the last checkpoint that can be read, and what is wrong with last.ckpt if it is not that one.

        Raises:
            RecipeError: if none can be read.
        """
        from ssl_inv.engine.checkpoints import load_checkpoint

        try:
            return load_checkpoint(self.checkpoint_file), ""
        except (OSError, ValueError) as error:
            damage = f"{self.checkpoint_file} is gone" if isinstance(error, FileNotFoundError) else str(error)
        if not self.at_end or not self.previous_file.is_file():
            raise RecipeError(f"{damage}; {self._others()}")
        try:
            return load_checkpoint(self.previous_file), damage
        except (OSError, ValueError) as error:
            raise RecipeError(f"{damage}; and {error}; {self._others()}") from None

    def _others(self) -> str:
        """What can be done about a checkpoint that cannot be read."""
        bad = (self.checkpoint_file, self.previous_file)
        kept = [name for name, path in self.checkpoints().items() if path not in bad]
        if kept:
            return f"copy another one to {self.checkpoint_file} to go on from it: {', '.join(kept)}"
        return f"remove {self.checkpoint_file.parent} to begin again at step 0"

    def set_aside_damaged(self) -> None:
        """Let the checkpoint before the last be the last. A damaged file is kept under another name."""
        if self.checkpoint_file.is_file():
            os.replace(self.checkpoint_file, self.checkpoint_file.with_suffix(".damaged"))
        link_or_copy(self.previous_file, self.checkpoint_file)

    @property
    def at_end(self) -> bool:
        """Whether the checkpoint is the last one, of which the results are."""
        return self.checkpoint_file.name == "last.ckpt"

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The content of last.ckpt, or of another checkpoint; None if the run ended before its first one.

        Raises:
            RecipeError: if the file is no checkpoint of this version, or is damaged.
        """
        if not self.has_checkpoint:
            return None
        state, damage = self.last_good()
        if damage:
            instead = f"`--checkpoint previous` takes the one before it, of step {state['step']:,}"
            raise RecipeError(f"{damage}; {instead}, and `ssl-inv pretrain --resume {self.path}` trains on from there")
        return state
