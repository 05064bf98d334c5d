"""Work other than training that several processes share: how they come together, and how all end if one fails."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from ssl_inv.catalogue import RecipeError
from ssl_inv.engine.cluster import place
from ssl_inv.engine.launched import Launched
from ssl_inv.engine.peers import PeerError
from ssl_inv.engine.processes import Processes
from ssl_inv.engine.signals import Interrupted, Signals
from ssl_inv.engine.team import ALONE, Team
from ssl_inv.run.build import Run
from ssl_inv.run.fitting import failed_before, own_account_of_broken_images, reason_of


@contextmanager
def gathered() -> Iterator[Team]:
    """The processes that torchrun or srun has started, for a command that they share; without them, this one alone.

    Raises:
        PeerError: on the first process, if another one has failed.
        SystemExit: on the others, if the first one says why.
    """
    here = place()
    if not here.started_outside or here.processes in (None, 1):
        yield ALONE
        return
    assert here.processes is not None
    nodes = here.nodes or 1
    team = Team(Launched(here, nodes, here.processes_here or -(-here.processes // nodes)))
    with Signals(_say if here.first else None) as signals, ending_together(team, signals):
        team.open()
        yield team


@contextmanager
def after_training(run: Run, signals: Signals) -> Iterator[Team]:
    """The processes that have trained a run, for what they share afterwards; see `gathered`."""
    strategy = run.trainer.strategy
    if not isinstance(strategy, Processes):
        yield ALONE
        return
    with ending_together(strategy.team, signals):
        yield strategy.team if strategy.have_trained else ALONE


def all_train(run: Run, trains: bool) -> bool:
    """Whether a run has steps to train. Of processes that others have started, the first alone knows and says so."""
    strategy = run.trainer.strategy
    if not isinstance(strategy, Processes) or not strategy.launched.here.started_outside:
        return trains
    return strategy.team.spread(b"yes" if trains else b"no") == b"yes"


def part(run: Run) -> None:
    """Leave the other processes of a run in peace."""
    if isinstance(run.trainer.strategy, Processes):
        run.trainer.strategy.leave()


@contextmanager
def ending_together(team: Team, signals: Signals) -> Iterator[None]:
    """Let all processes of a team end when one of them fails, each with the same reason."""
    quiet = nullcontext() if team.first else own_account_of_broken_images()
    try:
        with quiet:
            yield
    except KeyboardInterrupt as error:
        signals.disregard()
        reason = failed_before(team, error) if team.first and isinstance(error, Interrupted) else None
        team.leave(reason or str(error) or "interrupted")
        if reason is not None:
            raise PeerError(reason) from None
        raise
    except Exception as error:
        signals.disregard()
        # All processes make the same mistake, and nobody knows which of them finds it first.
        mistake = isinstance(error, RecipeError)
        reason = "" if mistake else team.why(error)
        team.leave(reason or reason_of(error))
        if not team.first and (mistake or (reason and not reason.startswith("rank 0 "))):
            raise SystemExit(2 if mistake else 1) from None  # the first process says it
        if reason:
            raise PeerError(reason) from None
        raise
    team.leave()


def _say(what: str) -> None:
    sys.stderr.write(f"error: {what}\n")
