"""Takes secrets out of what is written about a start: its command line and its uncommitted diff."""

import re
import shlex
from collections.abc import Mapping, Sequence

HIDDEN = "***"
_WORDS = r"(?:api_?key|access_?key|token|secret|passw(?:or)?d|passphrase|credentials?)"
_SECRET_VARIABLE = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
_MIN_LENGTH = 8  # of a variable's value: a shorter one, such as `1`, occurs anywhere
_FORMS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:hf_|sk-|gh[pousr]_|github_pat_|glpat-|xox[abeprs]-|AKIA|AIza)[\w-]{12,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",  # a JSON Web Token
    re.DOTALL,
)
_IN_ADDRESS = re.compile(r"(://)[^/@\s]*:[^/@\s]+(?=@)")
# In code, an unquoted value is a secret only if it has a digit: `token = read()` is none.
_IN_CODE = re.compile(
    rf"""(\w*{_WORDS}["']?\s*[:=]\s*)("[^"\n]+"|'[^'\n]+'|(?=[^\s"']*\d)[^\s"',;(){{}}\[\]]{{8,}})""",
    re.IGNORECASE,
)
_IN_ARGUMENT = re.compile(rf"([\w.-]*{_WORDS}[\"']?\s*[:=]\s*)[^\s,;}}\]]+", re.IGNORECASE)
_OPTION = re.compile(rf"--?[\w.-]*{_WORDS}", re.IGNORECASE)


def scrub(text: str, environ: Mapping[str, str]) -> str:
    """Replaces what looks like a secret by `***`.

    That is the value of a variable whose name says so, a password in an address, a key of a known
    form, and a value that is assigned to a name such as `api_key`.

    >>> scrub('url = "https://me:pass@host"  # ab', {"HF_TOKEN": "0123456789"})
    'url = "https://***@host"  # ab'
    """
    for name, value in environ.items():
        if _SECRET_VARIABLE.search(name) and len(value) >= _MIN_LENGTH:
            text = text.replace(value, HIDDEN)
    text = _IN_ADDRESS.sub(rf"\1{HIDDEN}", _FORMS.sub(HIDDEN, text))
    return _IN_CODE.sub(rf"\1{HIDDEN}", text)


def scrub_command(arguments: Sequence[str], environ: Mapping[str, str]) -> str:
    """A command line as a shell reads it, without secrets.

    >>> scrub_command(["aetheria", "train", "--token", "abc", "--set", "x.password=d e"], {})
    "aetheria train --token '***' --set 'x.password=*** e'"
    """
    shown: list[str] = []
    for argument in arguments:
        if shown and _OPTION.fullmatch(shown[-1]):
            shown.append(HIDDEN)
        else:
            shown.append(_IN_ARGUMENT.sub(rf"\1{HIDDEN}", scrub(argument, environ)))
    return shlex.join(shown)
