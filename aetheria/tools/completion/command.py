"""`aetheria completion SHELL`: a script by which a shell completes commands and options."""

from dataclasses import dataclass
from typing import Annotated, Literal

from aetheria.cli.flag import Argument
from aetheria.errors import ExitCode

# Both have COMP_WORDS: zsh by its bashcompinit. What no line knows is a file.
_BASH = """_aetheria() {{
    local line="${{COMP_WORDS[*]:1:COMP_CWORD-1}}" current="${{COMP_WORDS[COMP_CWORD]}}" words=""
    case "$line" in
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _aetheria aetheria
"""


@dataclass(frozen=True, kw_only=True)
class CompletionCommand:
    """Prints a script by which a shell completes the commands and options of aetheria: in ~/.bashrc
    or ~/.zshrc, write eval "$(aetheria completion bash)"; fish reads it from
    ~/.config/fish/completions/aetheria.fish.

    Examples:
        aetheria completion bash
        aetheria completion fish

    Exit codes:
        0: printed
        2: a mistake

    Attributes:
        shell: bash, zsh or fish.
    """

    shell: Annotated[Literal["bash", "zsh", "fish"], Argument(name="SHELL")]

    def execute(self) -> int:
        """Prints the script."""
        print({"bash": bash, "zsh": zsh, "fish": fish}[self.shell](), end="")
        return int(ExitCode.OK)


def bash() -> str:
    """For bash: `eval "$(aetheria completion bash)"` in ~/.bashrc."""
    options, below = _surface()
    # The longest words first: `snapshots verify` before `snapshots`.
    cases = [
        f'        "{words}"{"" if exact else "*"}) words="{" ".join(known)}" ;;'
        for words, exact, known in _cases(options, below)
    ]
    return _BASH.format(cases="\n".join(cases))


def zsh() -> str:
    """For zsh: `eval "$(aetheria completion zsh)"` in ~/.zshrc, after compinit."""
    return f"autoload -U +X bashcompinit && bashcompinit\n{bash()}"


def fish() -> str:
    """For fish."""
    options, below = _surface()
    lines: list[str] = []
    for words, names in below.items():
        seen = f"__fish_seen_subcommand_from {words}" if words else "__fish_use_subcommand"
        lines.append(f"complete -c aetheria -f -n '{seen}' -a '{' '.join(names)}'")
    for words, flags in options.items():
        last = words.split()[-1]
        for flag in flags:
            name = flag.removeprefix("--")
            lines.append(f"complete -c aetheria -n '__fish_seen_subcommand_from {last}' -l {name}")
    return "\n".join(lines) + "\n"


def _surface() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Command -> its options; and words -> what may follow them."""
    from aetheria.cli.parser import surface

    known = surface()
    options = {words: [n for n in names if n.startswith("--")] for words, names in known.items()}
    below: dict[str, list[str]] = {"": []}
    for words in known:
        first, _, second = words.partition(" ")
        if first not in below[""]:
            below[""].append(first)
        if second:
            below.setdefault(first, []).append(second)
    return options, below


def _cases(
    options: dict[str, list[str]], below: dict[str, list[str]]
) -> list[tuple[str, bool, list[str]]]:
    """What the words before the cursor are, whether exactly, and what may come."""
    exact = [(words, True, [*names, *options.get(words, [])]) for words, names in below.items()]
    begins = [(words, False, flags) for words, flags in options.items()]
    return [*exact, *sorted(begins, key=lambda case: -len(case[0]))]
