"""A Lightning logger that writes to Trackio, which has none of its own."""

import io
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning.loggers import Logger
from pytorch_lightning.loggers.logger import rank_zero_experiment  # type: ignore[attr-defined]
from pytorch_lightning.utilities import rank_zero_only


@contextmanager
def _silent() -> Iterator[None]:
    """Without Trackio's greetings: standard output has results only."""
    with redirect_stdout(io.StringIO()):
        yield


class TrackioLogger(Logger):
    """Metrics, settings and pictures of a run in Trackio's database, which `trackio show` reads.

    Trackio keeps all projects of a process in one folder. The first logger of a process decides which, unless the
    environment variable `TRACKIO_DIR` does.

    Args:
        project: the name under which Trackio groups runs.
        name: of the run. A run of that name in the project goes on.
        save_dir: the folder for Trackio's files.
        settings: further arguments of `trackio.init`.
    """

    def __init__(self, project: str, name: str, save_dir: str | Path, **settings: Any) -> None:
        super().__init__()
        self._project, self._name, self._folder, self._settings = project, name, Path(save_dir), settings
        self._run: Any = None
        self._config: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return self._project

    @property
    def version(self) -> str:
        return self._name

    @property
    def save_dir(self) -> str:
        return str(self._folder)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Trackio's run, which begins here."""
        if self._run is None:
            # Trackio reads this when it is imported.
            os.environ.setdefault("TRACKIO_DIR", str(self._folder.resolve()))
            import trackio

            quiet = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False, **self._settings}
            with _silent():
                self._run = trackio.init(self._project, name=self._name, resume="allow", config=self._config, **quiet)
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Keep the settings for the start of Trackio's run, which takes them only then."""
        self._config.update(vars(params) if isinstance(params, Namespace) else params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[NDArray[np.uint8]], step: int | None = None) -> None:
        """Log pictures, `(H, W, 3)` each."""
        run = self.experiment
        import trackio

        run.log(
            {key if number == 0 else f"{key}/{number}": trackio.Image(one) for number, one in enumerate(images)}, step
        )

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._run is None:
            return
        import trackio

        with _silent():
            # Not the run's own method: Trackio would end the run once more when the program ends.
            trackio.finish()
        self._run = None
