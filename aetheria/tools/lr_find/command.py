"""`aetheria lr-find CONFIG`: which learning rate to begin with."""

import contextlib
import json
from dataclasses import dataclass
from typing import Annotated

from aetheria.cli import values
from aetheria.cli.fields import ConfigFields
from aetheria.cli.flag import Flag
from aetheria.cli.table import print_table
from aetheria.config.files import load_config
from aetheria.errors import AetheriaError, ExitCode


@dataclass(frozen=True, kw_only=True)
class LrFindCommand(ConfigFields):
    """Suggests a learning rate: trains some steps with a rising one; nothing is kept.

    Examples:
        aetheria lr-find config.yaml
        aetheria lr-find config.yaml --low=1e-5 --high=10 --steps=200 --json

    Exit codes:
        0: a learning rate is suggested
        1: the loss does not fall, so none is
        2: a mistake

    Attributes:
        steps: how many steps are trained at most; they end when the loss has grown fourfold.
        low: the first learning rate.
        high: the last learning rate.
        as_json: print only JSON.
    """

    steps: Annotated[int, Flag(values.whole(10, 100_000), "N")] = 100
    low: Annotated[float, Flag(values.rate, "RATE")] = 1e-6
    high: Annotated[float, Flag(values.rate, "RATE")] = 1.0
    as_json: Annotated[bool, Flag(name="json")] = False

    def execute(self) -> int:
        """Trains and prints the losses and a suggestion.

        Raises:
            AetheriaError: the config is wrong, or the model's learning rate cannot be set.
        """
        if self.low >= self.high:
            raise AetheriaError(
                f"--low: expected less than --high ({self.high:g}), got {self.low:g}; exchange or "
                "change them"
            )
        config = load_config(self.config_file, self.overrides)
        from aetheria.plugins.discovery import find_project
        from aetheria.tools.lr_find.rising import Rise, train
        from aetheria.tools.lr_find.suggestion import curve, has_diverged, smooth, suggest

        project = find_project(self.config_file, self.project)
        rates: list[float] = []
        losses: list[float] = []
        rise = Rise(low=self.low, high=self.high, steps=self.steps)
        with contextlib.closing(train(config, project, rise)) as points:
            for point in points:
                rates.append(point.rate)
                losses.append(point.loss)
                if has_diverged(smooth(losses)):
                    break
        if not losses:
            raise AetheriaError(
                f"lr-find: expected a finite loss at the rate {self.low:g}, got none; see "
                "aetheria debug nan"
            )
        smoothed = smooth(losses)
        found = suggest(rates, smoothed)
        if self.as_json:
            curves = {"rates": rates, "losses": losses, "smoothed": smoothed}
            print(json.dumps({"suggestion": found, **curves}, indent=2))
        else:
            print_table(("rate", "loss", ""), curve(rates, smoothed), right=("rate", "loss"))
            print(f"{len(losses)} steps, from the initial weights; nothing was kept")
            print(
                "the loss does not fall: no suggestion; try another --low, --high or --steps"
                if found is None
                else f"suggestion: --set learning_rate={found:.2g}, where the loss falls fastest"
            )
        return int(ExitCode.FAILED if found is None else ExitCode.OK)
