"""`aetheria init DIR`: a project that trains at once: a config, a model, a dataset and a test."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from aetheria.cli import values
from aetheria.cli.flag import Argument
from aetheria.errors import AetheriaError, ExitCode

_TEMPLATE = Path(__file__).parent / "template"
_ENDING = ".txt"  # so that no tool takes a template for a part of Aetheria


@dataclass(frozen=True, kw_only=True)
class InitCommand:
    """Makes a project that trains at once: a config, a model, a dataset, and a test of them.

    Examples:
        aetheria init flowers
        aetheria init .

    Exit codes:
        0: made
        2: a mistake; nothing was written

    Attributes:
        folder: the folder; existing files are never replaced.
    """

    folder: Annotated[Path, Argument(values.local_path, name="DIR")]

    def execute(self) -> int:
        """Writes the files, and prints what to do next.

        Raises:
            AetheriaError: one of them exists.
        """
        contents = {
            self.folder / file.relative_to(_TEMPLATE).with_suffix(""): file.read_text("utf-8")
            for file in sorted(_TEMPLATE.rglob(f"*{_ENDING}"))
        }
        if (ignored := self.folder / ".gitignore").exists():
            del contents[ignored]
        if there := [str(path) for path in contents if path.exists()]:
            raise AetheriaError(
                f"init: expected a folder without {there[0]}, got one with it; name another folder"
            )
        try:
            for path, text in contents.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, "utf-8")
        except OSError as error:
            raise AetheriaError(
                f"init: expected a folder that can be written to, got {self.folder} "
                f"({error.strerror}); name another"
            ) from error
        for path in contents:
            print(f"wrote {path}")
        print(
            f"\nNext:\n  cd {self.folder}\n  aetheria train config.yaml\n  python -m pytest\n"
            "Then put your data in data/spirals.py and your network in models/spirals.py."
        )
        return int(ExitCode.OK)
