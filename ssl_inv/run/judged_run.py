"""The evaluation of a run on its own data."""

from typing import Any

from ssl_inv.catalogue import within
from ssl_inv.data.source import Data
from ssl_inv.engine.progress import Progress
from ssl_inv.engine.team import ALONE, Team
from ssl_inv.run.build import Run, build_networks
from ssl_inv.run.judging import Judgement, judge, judged_data


def data_to_judge(run: Run) -> Data:
    """The data of a run in the views that its evaluation asks for."""
    settings, seed = run.recipe.evaluation, run.recipe.trainer.seed
    with within("evaluation", besides=["augmentation"]):
        return judged_data(run.data, settings, run.objective.plan, run.augmentation, seed, run.device)


def judged(run: Run, data: Data, progress: Progress, team: Team = ALONE) -> Judgement | None:
    """The evaluation of a run on its own data; None if the recipe asks for none, and on all processes but the first."""
    settings, device, seed = run.recipe.evaluation, run.device, run.recipe.trainer.seed
    if settings.protocol == "none":
        return None
    trained = run.backbone.to(device), run.objective.to(device)
    random = build_networks(run.recipe, run.module.view_maker.groups)
    untrained: Any = tuple(network.to(device) for network in random)
    maker = run.module.view_maker.to(device)
    normalise = maker.normalise if settings.views_of == "training" else maker.whole
    with within("evaluation"):
        return judge(data, trained, untrained, normalise, settings, device, seed, show=progress, team=team)
