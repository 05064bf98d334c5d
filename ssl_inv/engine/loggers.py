"""Loggers of a run beside metrics.jsonl: Lightning's own classes, with files inside the folder of the run."""

import csv as comma_separated
import importlib.util
import inspect
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from ssl_inv.catalogue import LOGGERS, Catalogue, RecipeError, SettingError, require, suggest
from ssl_inv.engine.launch import say
from ssl_inv.engine.watch import scalars

Picture = NDArray[np.uint8]
"""`(H, W, 3)`."""

_LIBRARIES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
"""The library of each logger, whose name is also that of the extra which installs it."""


@dataclass
class Place:
    """Where a logger writes, and what it must know to go on after a pause.

    Attributes:
        folder: of the run.
        kept: facts that the next start is given again: the number of the logger's run.
    """

    folder: Path
    kept: dict[str, Any]

    @property
    def title(self) -> str:
        """The name of the run."""
        return self.folder.resolve().name


def tensorboard(place: Place, **settings: Any) -> Logger:
    """TensorBoard's event files, in `tensorboard/`."""
    defaults = {"save_dir": place.folder / "tensorboard", "name": "", "version": "", "default_hp_metric": False}
    return TensorBoardLogger(**{**defaults, **settings})


def csv(place: Place, **settings: Any) -> Logger:
    """A table with one row per step, `csv/metrics.csv`."""
    settings = {"save_dir": place.folder / "csv", "name": "", "version": "", "flush_logs_every_n_steps": 1, **settings}
    file = Path(settings["save_dir"]) / str(settings["name"]) / str(settings["version"]) / "metrics.csv"
    rows = []
    if file.is_file():
        with file.open(newline="", encoding="utf-8") as text:
            rows = list(comma_separated.DictReader(text))
        # Lightning's logger begins a new file. It is given the rows of the old one.
        file.rename(file.with_suffix(".before"))
    logger = CSVLogger(**settings)
    for row in rows:
        step = int(row.pop("step"))
        logger.log_metrics({name: float(value) for name, value in row.items() if value}, step)
    if rows:
        logger.save()
    file.with_suffix(".before").unlink(missing_ok=True)
    return logger


def wandb(place: Place, **settings: Any) -> Logger:
    """Weights & Biases, in `wandb/`. It stays on this machine unless `offline: false` is given."""
    number = place.kept.setdefault("id", settings.pop("id", None) or uuid.uuid4().hex[:8])
    from wandb import Settings

    defaults = {"save_dir": place.folder, "project": "ssl-inv", "name": place.title, "offline": True}
    # Standard output has results only, and the run's own words stay where they are.
    defaults["settings"] = Settings(silent=True, console="off")
    logger = WandbLogger(**{**defaults, **settings, "id": number})
    # Lightning passes it on in every case, and the library warns of it.
    logger._wandb_init.pop("anonymous", None)
    return logger


def mlflow(place: Place, **settings: Any) -> Logger:
    """MLflow, in `mlflow/`: a database and a folder of pictures."""
    folder = (place.folder / "mlflow").resolve()
    defaults = {"experiment_name": "ssl-inv", "run_name": place.title}
    if not settings.get("tracking_uri"):
        folder.mkdir(parents=True, exist_ok=True)
        defaults |= {"tracking_uri": f"sqlite:///{folder / 'mlflow.db'}", "artifact_location": str(folder / "files")}
    import mlflow as library  # noqa: F401 - it sets the levels of its logs when it is imported

    for speaker in ("alembic", "mlflow", "mlflow.store.db.utils"):  # of every table of a new database
        logging.getLogger(speaker).setLevel(logging.WARNING)
    logger = MLFlowLogger(**{**defaults, **settings, "run_id": place.kept.get("run_id", settings.get("run_id"))})
    place.kept["run_id"] = logger.run_id
    return logger


def trackio(place: Place, **settings: Any) -> Logger:
    """Trackio, in `trackio/`, a database that `trackio show` reads."""
    from ssl_inv.engine.trackio_logger import TrackioLogger

    number = place.kept.setdefault("name", settings.pop("name", None) or f"{place.title}-{uuid.uuid4().hex[:4]}")
    return TrackioLogger(**{"save_dir": place.folder / "trackio", "project": "ssl-inv", **settings, "name": number})


def _summary_writer() -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter


def _wandb_init() -> Any:
    import wandb as library

    return library.init


_FURTHER = {"TensorBoardLogger": _summary_writer, "WandbLogger": _wandb_init}
"""What some of Lightning's loggers hand the settings to that they do not know themselves."""


def named(given: Any) -> tuple[str, dict[str, Any]]:
    """The name and the settings of a logger or a callback as a recipe has it."""
    if isinstance(given, str):
        return given, {}
    return str(given["name"]), {key: value for key, value in given.items() if key != "name"}


def constructed(catalogue: Catalogue, setting: str, name: str, settings: Mapping[str, Any], *first: Any) -> Any:
    """Call what a name of a recipe stands for.

    Args:
        catalogue: where the name is looked up.
        setting: the key of the mapping in the recipe, for messages.
        name: short, or a dotted path.
        settings: keyword arguments.
        first: arguments before them.

    Raises:
        SettingError: if it cannot be imported, or refuses the settings.
    """
    try:
        make = catalogue.find(name).load()
    except SettingError as error:
        raise SettingError(f"{setting}.{error.setting}", error.problem) from error
    require(callable(make), f"{setting}.name", f"{name!r} cannot be called")
    try:
        require_accepted(make, setting, settings)
        return make(*first, **settings)
    except RecipeError:
        raise
    except Exception as error:  # Somebody else's class can raise anything.
        raise SettingError(setting, f"{name} refuses its settings: {' '.join(str(error).split())}") from error


def require_accepted(make: Any, setting: str, settings: Mapping[str, Any]) -> None:
    """Raise a `SettingError` for the first setting that a class or function has no argument for."""
    every = [make, *([further()] if (further := _FURTHER.get(getattr(make, "__name__", ""))) else [])]
    parameters = [one for called in every for one in inspect.signature(called).parameters.values()]
    known = [one.name for one in parameters if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)]
    if len(every) == 1 and any(one.kind is one.VAR_KEYWORD for one in parameters):
        return
    for name in settings:
        require(name in known, f"{setting}.{name}", f"no such setting; {suggest(str(name), known)}")


_CLASSES = {"tensorboard": TensorBoardLogger, "csv": CSVLogger, "wandb": WandbLogger, "mlflow": MLFlowLogger}


def require_loggers(given: Sequence[Any]) -> None:
    """Refuse loggers that cannot be made. Nothing is written.

    Raises:
        SettingError: naming the extra that a logger needs, the setting that it does not know, or what is no logger.
    """
    for number, one in enumerate(given):
        name, settings = named(one)
        setting = f"loggers[{number}]"
        library = _LIBRARIES.get(name)
        if library is not None and importlib.util.find_spec(library) is None:
            raise SettingError(setting, f"{name!r} needs a library that is missing: pip install 'ssl-inv[{library}]'")
        found: Any = _CLASSES.get(name)
        if name == "trackio":
            from ssl_inv.engine.trackio_logger import TrackioLogger

            found = TrackioLogger
        elif found is None:
            try:
                found = LOGGERS.find(name).load()
            except SettingError as error:
                raise SettingError(f"{setting}.{error.setting}", error.problem) from error
            is_one = inspect.isclass(found) and issubclass(found, Logger)
            require(is_one, f"{setting}.name", f"{name!r} is no Lightning logger")
        require_accepted(found, setting, settings)


class Loggers:
    """All loggers of a run. A logger is told no step twice, however often the run is resumed.

    Args:
        given: the loggers of the recipe.
        folder: of the run.
        kept: what each logger kept by its name, from the last start; it is written to.
        told: the last step that the loggers were told before this start.
        names: of the loggers that were there before this start; a new one is told every step.
    """

    def __init__(self, given: Sequence[Any], folder: Path, kept: dict[str, dict[str, Any]], told: int) -> None:
        self.kept, self.told = kept, told
        self.old = set(kept)
        self.problems: list[str] = []
        """What has gone wrong, in words; the logger is told nothing more in this start."""
        self.all: dict[str, Logger] = {}
        for number, one in enumerate(given):
            name, settings = named(one)
            facts = kept.setdefault(name, {})
            if name in LOGGERS.members:
                logger = constructed(LOGGERS, f"trainer.loggers[{number}]", name, settings, Place(folder, facts))
            else:
                inside = {"save_dir": folder} if "save_dir" not in settings and _takes_folder(name) else {}
                logger = constructed(LOGGERS, f"trainer.loggers[{number}]", name, {**inside, **settings})
            self.all[name] = logger

    def begin(self, recipe: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> None:
        """Tell the recipe, and to loggers that were not there before what has been logged.

        Args:
            recipe: section -> setting -> value.
            history: the entries of metrics.jsonl.
        """
        for name, logger in self.all.items():
            # MLflow keeps the settings with which a run began, and refuses other values.
            if name not in self.old or name != "mlflow":
                logger.log_hyperparams(dict(recipe))
        for name in [name for name in self.all if name not in self.old]:
            with self._guarded(name, "the steps before"):
                for entry in history:
                    self._tell(name, entry)

    def log(self, entry: Mapping[str, Any]) -> None:
        """Tell an entry of metrics.jsonl, and further numbers in it."""
        for name in list(self.all):
            if entry["step"] > self.told or name not in self.old:
                with self._guarded(name, f"step {entry['step']}"):
                    self._tell(name, entry)

    @contextmanager
    def _guarded(self, name: str, what: str) -> Iterator[None]:
        """Leave a logger out that fails: metrics.jsonl has everything, and no logger is worth a run."""
        try:
            yield
        except SettingError:
            raise
        except Exception as error:  # Somebody else's class can raise anything.
            del self.all[name]
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            self.problems.append(f"the logger {name} failed at {what} and is told nothing more: {reason}")
            say(self.problems[-1])

    def _tell(self, name: str, entry: Mapping[str, Any]) -> None:
        logger = self.all[name]
        if numbers := scalars(entry):
            logger.log_metrics(numbers, int(entry["step"]))
        if name in ("csv", "tensorboard"):
            # These two keep what they are told in memory for a while, which a killed run would lose.
            logger.experiment.flush() if isinstance(logger, TensorBoardLogger) else logger.save()

    def conclude(self, results: Mapping[str, Any], pictures: Mapping[str, Picture], step: int) -> None:
        """Tell the results of a run and show its pictures, once for a step, and close the loggers."""
        for name, logger in list(self.all.items()):
            with self._guarded(name, "the results"):
                if self.kept[name].get("concluded") != step:
                    self._tell(name, {"step": step, **results})
                    for title, picture in pictures.items():
                        _show(logger, title, picture, step)
                    self.kept[name]["concluded"] = step
                logger.finalize("success")
                if isinstance(logger, WandbLogger):
                    logger.experiment.finish()


def _show(logger: Logger, name: str, picture: Picture, step: int) -> None:
    """Give a picture to a logger that can hold one."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, picture, step, dataformats="HWC")
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, picture, artifact_file=f"{name}.png")
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [picture])
    elif hasattr(logger, "log_image"):
        logger.log_image(name, [picture], step)


def _takes_folder(path: str) -> bool:
    return "save_dir" in inspect.signature(LOGGERS.find(path).load()).parameters
