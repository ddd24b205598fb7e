"""What a run would do, found out as the run itself does, up to where it would compile or write."""

import os

from aetheria.build import prepare_environment
from aetheria.engine.interfaces import SingleProcess
from aetheria.training.card import Card, card_lines
from aetheria.training.session import TrainingSession


def describe(session: TrainingSession, *, verbose: bool = False) -> list[str]:
    """Resolves the request, reads and checks the data, traces the model, and describes the run, a
    line each. Nothing is compiled or written, and no other process is waited for.

    Raises:
        AetheriaError: as for the run.
    """
    prepare_environment(session.config, os.environ)
    run, notes = session.build(SingleProcess(), session.request.resolve())
    card = Card(run=run, devices=[run.devices])
    return [
        *run.plan.describe(),
        *card_lines(card.rows(verbose=verbose)),
        *notes,
        f"reports: {', '.join(('train/loss', *run.eval_metrics))}",
        "dry run: nothing was compiled or written",
    ]
