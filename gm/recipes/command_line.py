"""A training command out of a shell file or a README, as names and values. No shell is run.

What is understood: lines that go on behind a backslash (in Windows' files ^ or a backtick), quotes, comments, several commands in
one text, blocks of code in Markdown, `export X=...`, `X=...`, Windows' `set X=...` and a notebook's `%env X=...`, and then $X,
${X}, ${X:-else} and %X%. A variable that the text sets nowhere stays as it is written.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Sequence

from gm.errors import UserError, shown
from gm.recipes.draft import Settings

LAUNCHER = "accelerate."  # in front of what is given to the program that starts the script
_FENCE = re.compile(r"^[ \t]*(```|~~~)[^\n]*\n(.*?)^[ \t]*\1[ \t]*$", re.MULTILINE | re.DOTALL)
_WINDOWS = re.compile(r"(^|[\s\"'=])[A-Za-z]:\\|\^[ \t]*$|%\w+%", re.MULTILINE)
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_NAME = re.compile(r"\{([A-Za-z_]\w*)(?:(:?-)([^}]*))?\}|([A-Za-z_]\w*)")
_PERCENT = re.compile(r"%([A-Za-z_]\w*)%")
_NUMBER = re.compile(r"-[0-9.][0-9.eE+-]*")
_SEPARATORS = ";&|\n"
_UNREAD = "\0"  # in front of what only a shell could read
_NO_STARTERS = {"wget", "curl", "cp", "mv", "cat", "git", "rm", "ls", "cd", "echo", "pip", "chmod", "sed", "touch"}


def command_of(text: str) -> tuple[str, dict[str, Any]]:
    """The name of the script that the text runs, without its folders, and what is given to it: flag without its dashes -> a text,
    True where no value follows, or a list of texts where several do. Of a flag that is given twice the last counts. What is
    given to `accelerate launch` in front of the script has LAUNCHER before its name. UserError where nothing or more than one
    training is started."""
    found = [words for words in _commands(text) if _script_in(words) is not None and words[0] not in _NO_STARTERS]
    training = [words for words in found if "train" in _base(words[_index_in(words)])] or found
    if not training:
        raise UserError("the text starts no Python script: give the command that starts a training, with its script's name")
    first = training[0]
    if any(words != first for words in training[1:]):
        names = ", ".join(_base(words[_index_in(words)]) for words in training)
        raise UserError(f"the text starts {len(training)} trainings ({names}): leave one of them in it")
    unread = next((word for word in first if _UNREAD in word), None)
    if unread:
        part = unread.partition(_UNREAD)[2].partition(_UNREAD)[0]
        raise UserError(f"only a shell can say what {shown(part)} is, and none is run here: write its value instead")
    at = _index_in(first)
    script = _base(first[at])
    launcher = {LAUNCHER + name: value for name, value in _flags(first[:at], script, strict=False).items()}
    return script, {**launcher, **_flags(first[at + 1 :], script, strict=True)}


def say_launcher(settings: Settings) -> int:
    """Rows for what was given to the program that starts the script. Returns on how many devices it starts it."""
    count = 1
    for name in [name for name in settings.values if name.startswith(LAUNCHER)]:
        short = name[len(LAUNCHER) :]
        if short in ("num_processes", "nproc_per_node"):
            count = max(1, settings.number(name, int))
            words = f"start {count} processes with mpirun and --is_parallel True" if count > 1 else "one process, as here"
            settings.taken(name, words)
        elif short == "mixed_precision":
            settings.taken(name, "counts where the script itself is given no mixed_precision")
        else:
            settings.unsupported(name, "a matter of the program that starts the script: no effect on the result")
    return count


def _base(word: str) -> str:
    return re.split(r"[/\\]", word)[-1]


def _script_in(words: Sequence[str]) -> Optional[str]:
    return next((word for word in words if word.endswith(".py")), None)


def _index_in(words: Sequence[str]) -> int:
    script = _script_in(words)
    assert script is not None
    return list(words).index(script)


def _flags(words: Sequence[str], script: str, strict: bool) -> dict[str, Any]:
    given: dict[str, list[str]] = {}
    at: Optional[list[str]] = None
    for word in words:
        if word.startswith("-") and not _NUMBER.fullmatch(word):
            name, equals, value = word.lstrip("-").partition("=")
            at = given[name] = [value] if equals else []
        elif at is not None:
            at.append(word)
        elif strict:
            raise UserError(f"{shown(word)} stands behind {script} without a flag in front of it: put its flag there")
    return {name: values[0] if len(values) == 1 else values or True for name, values in given.items()}


def _commands(text: str) -> list[list[str]]:
    """All commands of a text, each as its words, with the variables that the text sets filled in."""
    blocks = [match[2] for match in _FENCE.finditer(text)]
    return _Reader("\n".join(blocks) if blocks else text).commands()


_CLOSED_BY = {"`": "`", "$(": ")", "${": "}"}  # what only a shell can read -> its end


def _length(text: str, opens: str, closes: str) -> int:
    """Of the text up to the sign that closes what it begins with."""
    depth = 0
    for at, c in enumerate(text):
        depth += 1 if c == opens else -1 if c == closes else 0
        if c == closes and depth <= 0:
            return at + 1
    return len(text)


@dataclass
class _Reader:
    """Goes through a text once, as a shell does."""

    text: str
    at: int = 0
    variables: dict[str, str] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)  # of the command that is being read
    word: Optional[str] = None  # None: between two
    found: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.text = self.text.replace("\r\n", "\n").replace(_UNREAD, "").expandtabs(1)
        self.windows = _WINDOWS.search(self.text) is not None
        # a line that goes on; where the next begins with a flag, a space was meant
        self.text = re.sub(r"(?:\\|(?<=\s)[`^])[ ]*\n(?=\s*-)", " ", self.text)
        self.text = re.sub(r"\\\n|(?<=\s)[`^][ ]*\n", "", self.text)

    def commands(self) -> list[list[str]]:
        while self.at < len(self.text):
            c = self.text[self.at]
            self.at += 1
            if c in _SEPARATORS:
                self._end_of_command()
            elif c == " ":
                self._end_of_word()
            elif c == "#" and self.word is None:
                self.at = self._find("\n", len(self.text))
            elif c == "'":
                end = self._closing("'")
                self._add(self.text[self.at : end])
                self.at = end + 1
            elif c == '"':
                self._quoted()
            elif c == "\\" and not self.windows:
                self._add(self.text[self.at : self.at + 1])
                self.at += 1
            elif c in "$%`":
                self._add_split(self._variable(c))
            else:
                self._add(c)
        self._end_of_command()
        return self.found

    def _quoted(self) -> None:
        self._add("")
        end = self._closing('"')
        while self.at < end:
            c = self.text[self.at]
            self.at += 1
            if c == "\\" and not self.windows and self.text[self.at] in '$`"\\':
                self._add(self.text[self.at])
                self.at += 1
            elif c in "$%`":
                self._add(self._variable(c))
                end = end if self.at <= end else self._closing('"')  # there were quotes in what only a shell can read
            else:
                self._add(c)
        self.at = end + 1

    def _variable(self, sign: str) -> str:
        """What stands for the variable whose sign was just read."""
        rest = self.text[self.at :]
        match = _PERCENT.match(sign + rest) if sign == "%" else _NAME.match(rest) if sign == "$" else None
        if not match:
            opened = sign if sign == "`" else sign + rest[:1]
            if opened not in _CLOSED_BY:
                return sign
            length = _length(rest, "" if sign == "`" else rest[:1], _CLOSED_BY[opened])
            self.at += length
            return _UNREAD + sign + rest[:length] + _UNREAD
        if sign == "%":
            self.at += len(match[0]) - 1
            return self.variables.get(match[1], match[0])
        self.at += len(match[0])
        name = match[1] or match[4]
        return self.variables.get(name, match[3] if match[2] else sign + match[0])

    def _closing(self, quote: str) -> int:
        at = self.at
        while at < len(self.text) and self.text[at] != quote:
            at += 2 if quote == '"' and self.text[at] == "\\" and not self.windows else 1
        if at >= len(self.text):
            line = self.text[self.text.rfind("\n", 0, self.at) + 1 : self._find("\n", len(self.text))]
            raise UserError(f"the quote {quote} in {shown(line.strip())} is never closed: close it")
        return at

    def _find(self, what: str, otherwise: int) -> int:
        at = self.text.find(what, self.at)
        return otherwise if at < 0 else at

    def _add(self, text: str) -> None:
        self.word = (self.word or "") + text

    def _add_split(self, text: str) -> None:
        """As a shell does with a variable outside quotes: its spaces part words."""
        if _ASSIGNMENT.fullmatch(self.word or "") and not self.words or _UNREAD in text or not text:
            return self._add(text) if text else None
        first, *others = text.split(" ")
        if first:
            self._add(first)
        for other in others:
            self._end_of_word()
            if other:
                self._add(other)
        return None

    def _end_of_word(self) -> None:
        if self.word is not None:
            self.words.append(self.word)
        self.word = None

    def _end_of_command(self) -> None:
        self._end_of_word()
        words, self.words = self.words, []
        while words and words[0] in ("!", "$", "export", "set", "%env", "declare", "local", "env", "%%bash", "then", "do"):
            words = words[1:]
        if words and words[0].startswith("!"):  # a notebook's way to a shell
            words = [words[0][1:], *words[1:]]
        while words:
            match = _ASSIGNMENT.fullmatch(words[0])
            if not match:
                break
            self.variables[match[1]] = match[2]
            words = words[1:]
        if words:
            self.found.append(words)


def given_mixed_precision(values: Mapping[str, Any]) -> Optional[str]:
    """The script's mixed_precision, else that of the program that starts it."""
    return values.get("mixed_precision", values.get(LAUNCHER + "mixed_precision"))
