"""Numbers that are watched during training: the best checkpoint, and the end before the last step."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ssl_inv.catalogue import SettingError, suggest
from ssl_inv.engine.monitor import collapse
from ssl_inv.engine.settings import StopSettings, Watched

_GROUPS = ("monitor", "loss")


def clean(name: str) -> str:
    """A name that every logger takes as it is: `r2 rotation, equivariant` becomes `r2_rotation/equivariant`."""
    return re.sub(r"[^\w./-]+", "_", name.replace(", ", "/")).strip("_")


def scalars(entry: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an entry of metrics.jsonl by one name each, such as `loss/invariance`, `monitor/knn` and `lr`."""
    found = {}
    for name, value in entry.items():
        inside = value if isinstance(value, Mapping) else {"": value}
        for inner, number in inside.items():
            if name != "step" and number is not None:
                found[clean(f"{name}/{inner}" if inner else name)] = float(number)
    return found


class Value:
    """Reads a watched number from the entries of metrics.jsonl.

    Args:
        watched: which.
        setting: the setting that asks for it, for messages.
        monitored: whether there will be scores.
    """

    def __init__(self, watched: Watched, setting: str, monitored: bool = True) -> None:
        self.watched, self.setting = watched, setting
        wanted = clean(watched.name)
        self.names = [wanted] if wanted.partition("/")[0] in _GROUPS else [f"{group}/{wanted}" for group in _GROUPS]
        self._groups = {one.partition("/")[0] for one in self.names} - (set() if monitored else {"monitor"})
        self._seen: dict[str, None] = {}
        self._lower = False

    def read(self, entry: Mapping[str, Any]) -> float | None:
        """The number as the larger the better, or None if this entry has none.

        Raises:
            SettingError: if losses and scores have been logged, and none has that name.
        """
        numbers = scalars({name: entry[name] for name in _GROUPS if name in entry})
        name = next((one for one in self.names if one in numbers), None)
        self._seen.update(dict.fromkeys(numbers))
        if name is None:
            self._require_possible()
            return None
        self._lower = self.watched.mode == "min" or (self.watched.mode is None and name.startswith("loss/"))
        return self.shown(numbers[name])

    @property
    def mode(self) -> str:
        """Whether more or less is better, once the number has been read."""
        return "min" if self._lower else "max"

    def shown(self, value: float) -> float:
        """The number itself, from what `read` gave."""
        return -value if self._lower else value

    def _require_possible(self) -> None:
        groups = {one.partition("/")[0] for one in self._seen}
        if not set(self._seen).intersection(self.names) and groups >= self._groups:
            short = {one.partition("/")[2]: None for one in self._seen}
            raise SettingError(
                self.setting,
                f"nothing that is logged is called {self.watched.name!r}; {suggest(self.watched.name, short)}",
            )


def require_scored(watched: Watched | None, setting: str, every: int, scores: Iterable[str]) -> None:
    """Refuse the name of a monitor score that no monitor will give, as far as it is known before training.

    Args:
        watched: the number.
        setting: the setting that asks for it.
        every: steps between scores; 0 is no monitor.
        scores: the beginnings of the names of scores.

    Raises:
        SettingError: if it is called a monitor score, and is none.
    """
    if watched is None:
        return
    known = [clean(one) for one in scores]
    name = clean(watched.name).removeprefix("monitor/")
    is_score = any(name == one or name.startswith(f"{one}/") for one in known)
    asks = clean(watched.name).startswith("monitor/")
    if (is_score or asks) and not every:
        raise SettingError(setting, f"{watched.name!r} is a monitor score, but monitor.every is 0")
    if asks and not is_score:
        raise SettingError(setting, f"no score is called {watched.name!r}; {suggest(name, known)}")


def require_known(watched: Watched | None, setting: str, losses: Iterable[str], scores: Iterable[str]) -> None:
    """Refuse the name of something that is neither a loss term nor a monitor score.

    Args:
        watched: the number.
        setting: the setting that asks for it.
        losses: the names of all terms.
        scores: the beginnings of the names of scores.

    Raises:
        SettingError: if nothing is called so.
    """
    if watched is None:
        return
    terms, beginnings = [clean(one) for one in losses], [clean(one) for one in scores]
    name = clean(watched.name)
    short = name.removeprefix("monitor/")
    if name.removeprefix("loss/") in terms or any(short == one or short.startswith(f"{one}/") for one in beginnings):
        return
    problem = f"nothing that is logged is called {watched.name!r}"
    raise SettingError(setting, f"{problem}; {suggest(name, [*terms, *beginnings])}")


class Stop:
    """Decides from the entries of metrics.jsonl, and from nothing else, when training ends before its last step.

    A run that is resumed reads the entries that it has, and goes on counting.

    Args:
        settings: when.
        monitored: whether there will be scores.
    """

    def __init__(self, settings: StopSettings, monitored: bool = True) -> None:
        self.settings = settings
        self._value = None if settings.watched is None else Value(settings.watched, "trainer.stop.name", monitored)
        self._best: float | None = None
        self._worse = self._collapsed = 0

    def see(self, entry: Mapping[str, Any]) -> str | None:
        """Count an entry. Gives the reason to end training, or None."""
        scores = entry.get("monitor")
        # JSON has no number for a score that is not finite.
        if self.settings.collapse and scores and None not in (scores.get("deviation"), scores.get("rankme")):
            sentence = collapse(scores)
            self._collapsed = self._collapsed + 1 if sentence else 0
            if self._collapsed >= self.settings.collapse:
                return f"collapse, {self._collapsed} scores in a row: {sentence}"
        if self._value is None or (value := self._value.read(entry)) is None:
            return None
        if self._best is None or value > self._best + self.settings.change:
            self._best, self._worse = value, 0
        else:
            self._worse += 1
        if self._worse < self.settings.patience:
            return None
        best = self._value.shown(self._best)
        return f"plateau: {self.settings.name} stays no better than {best:.4g} for {self._worse} values"
