"""``llmc sample -i``: prompts in, texts out, with a model that stays loaded."""

from __future__ import annotations

import shlex
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from llmc.cli.ui import Ui
from llmc.cli.views.sampling import TerminalView, legend, prompt_note, summary
from llmc.config import SAMPLE_SETTINGS, SampleConfig
from llmc.engine.generator import Generator
from llmc.engine.protocol import Request
from llmc.errors import Usage
from llmc.paths import cache_dir
from llmc.sample.model import SampleModel
from llmc.sample.text import Sample
from llmc.setting import nearest
from llmc.text.documents import unescaped
from llmc.units import megabytes

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

HISTORY = "prompts"  # in the cache; readable by this user only


KEYS = (
    ("Enter", "Send the prompt; an empty one continues the text"),
    ("Alt-Enter", "New line in the prompt"),
    ("Up, Down", "Earlier prompts; Ctrl-R searches them"),
    ("Ctrl-C", "End the text that is being written, not the program"),
)


@dataclass(frozen=True)
class Session:
    """What an interactive session begins with."""

    ui: Ui
    generator: Generator
    model: SampleModel
    settings: SampleConfig  # of the first text
    stops: Sequence[str] = ()  # strings that end a text


class Prompt(ABC):
    """An interactive session: lines in, texts out. What a line means is a subclass's.

    Attributes:
        settings: settings of the next text; the seed increases by 1 after each text.
        stops: strings that end a text.
        view: shows the texts.
        commands: what a line that begins with a slash can be, by its name.
        keys: keys of the prompt, and what they do.
    """

    def __init__(
        self,
        session: Session,
        *,
        commands: Mapping[str, PromptCommand],
        keys: Sequence[tuple[str, str]],
    ) -> None:
        self.settings = session.settings
        self.stops = list(session.stops)
        self.commands = commands
        self.keys = keys
        self._ui = session.ui
        self._generator = session.generator
        self._sampled = session.model
        self.view = TerminalView()

    @abstractmethod
    def answer(self, prompt: str) -> None:
        """Write the text for a line that is not a command.

        Raises:
            LlmcError: the engine has ended.
        """

    def run(self, first: str | None = None) -> None:
        """Ask for prompts and answer them, ``first`` too, until Ctrl-D or ``/quit``.

        Raises:
            LlmcError: the engine has ended.
        """
        session = _session(self._toolbar, [f"/{name}" for name in self.commands])
        self._ui.note(f"{self._model()}; /help lists the commands, Ctrl-D leaves")
        if first is not None:
            self.answer(first)
        while True:
            # Ctrl-C discards the line, as in a shell, even before the prompt is shown.
            try:
                if not self.take(session.prompt("> ")):
                    return
            except KeyboardInterrupt:
                continue
            except EOFError:
                return

    def take(self, line: str) -> bool:
        """Run a command or answer a line; return False after /quit.

        Raises:
            LlmcError: the engine has ended.
        """
        if not line.startswith("/") or line.startswith("//"):
            self.answer(line.removeprefix("/") if line.startswith("//") else line)
            return True
        name, _, rest = line[1:].partition(" ")
        try:
            return self._command(ALIASES.get(name, name), rest)
        except Usage as error:
            self._ui.error(str(error))
            return True

    def say_summary(self, sample: Sample) -> None:
        """Print the statistics of a text that has ended."""
        self._ui.console.print(f"{summary([sample], 0)}; seed {sample.seed}", style="dim")
        if self.view.colours:
            self._ui.console.print(legend())

    def _command(self, name: str, rest: str) -> bool:
        """Run a command; return False after /quit."""
        command = self.commands.get(name)
        if command is None:
            known = nearest(f"/{name}", [f"/{known}" for known in self.commands])
            raise Usage(f"there is no /{name}{known} (type // for a prompt that begins with /)")
        if rest.strip() and " " not in command.usage:
            raise Usage(f"{command.usage} takes nothing after it")
        command.run(self, command, rest)
        return name != "quit"

    def set(self, command: PromptCommand, value: str) -> None:
        """Change a setting, or show it if there is no value.

        Raises:
            Usage: the value is not valid.
        """
        if value.strip():
            self.settings = changed(self.settings, command, value.strip())
        self._ui.note(f"{command.setting}: {getattr(self.settings, command.setting)}")

    def set_stop(self, command: PromptCommand, text: str) -> None:
        """Set the stop string, or none.

        Raises:
            Usage: the text is empty or not quoted correctly.
        """
        self.stops = [_unescaped(text)] if text else []
        self._ui.note(f"stop: {self._stops()}")

    def set_colours(self, command: PromptCommand, value: str) -> None:
        """Switch the colours on or off; toggle them without a value.

        Raises:
            Usage: the value is neither on nor off.
        """
        value = value.strip()
        if value not in ("", "on", "off"):
            raise Usage("/probs takes on or off; /probs alone toggles")
        self.view.colours = value == "on" if value else not self.view.colours
        self._ui.note(f"colours by probability: {'on' if self.view.colours else 'off'}")

    def show(self, command: PromptCommand, rest: str) -> None:
        """List the settings and the model."""
        for name, value in vars(self.settings).items():
            self._ui.note(f"{name.replace('_', ' '):<20} {value}")
        self._ui.note(f"{'stop':<20} {self._stops()}")
        self._ui.note(f"{'model':<20} {self._model()}")

    def help(self, command: PromptCommand, rest: str) -> None:
        """List the commands and keys."""
        width = max(len(each.usage) for each in self.commands.values()) + 2
        lines = [(each.usage, each.help) for each in self.commands.values()]
        for name, text in (*lines, *self.keys):
            self._ui.note(f"{name:<{width}}{text}")

    def quit(self, command: PromptCommand, rest: str) -> None:  # noqa: B027
        """Do nothing: the session ends after this command."""

    def _stops(self) -> str:
        return ", ".join(map(repr, self.stops)) or "none"

    def _model(self) -> str:
        ready = self._generator.ready
        return (
            f"{self._sampled.checkpoint}: {ready.dtype}, {megabytes(ready.memory_bytes)}, "
            f"{ready.positions:,} tokens of context"
        )

    def _toolbar(self) -> str:
        """Return the settings that differ from the defaults, for the line below the prompt."""
        default, now = vars(SampleConfig()), vars(self.settings)
        parts = [f"{self.settings.tokens} tokens", f"seed {self.settings.seed}"]
        parts += [
            f"{name.replace('_', '-')} {value}"
            for name, value in now.items()
            if value != default[name] and name not in ("tokens", "seed")
        ]
        return " · ".join([*parts, "/help"])


class Conversation(Prompt):
    """A session of ``llmc sample -i``, which continues prompts.

    Attributes:
        ids: the last text with its prompt, which an empty prompt continues.
    """

    def __init__(self, session: Session, *, eot: int, special: bool = False) -> None:
        """Begin; ``eot`` ends a text, and with ``special`` special tokens in prompts are tokens."""
        super().__init__(session, commands=COMMANDS, keys=KEYS)
        self.ids: list[int] = []
        self._eot = eot
        self._special = special

    def answer(self, prompt: str) -> None:
        """Continue a prompt, or the last text if it is empty. Ctrl-C ends the text.

        Raises:
            LlmcError: the engine has ended.
        """
        assert self._sampled.tokenizer is not None
        if prompt:
            self.ids = self._sampled.ids(prompt, special=self._special)
        request = Request(self.ids or [self._sampled.eot], self.settings, self._eot)
        try:
            sample = Sample(self._generator, self._sampled.tokenizer, request, self.stops)
        except Usage as error:
            self._ui.error(str(error))
            return
        warning = prompt_note(len(self.ids), self._sampled.config.context) if prompt else None
        if warning is not None:
            self._ui.note(warning)
        with interrupts(sample.cancel), self.view:
            if prompt:
                self.view.prompt(self.ids, prompt)
            for token in sample:
                self.view.show(token)
        self.ids += sample.ids
        self.settings = replace(self.settings, seed=(self.settings.seed + 1) % 2**53)
        self.say_summary(sample)


@dataclass(frozen=True)
class PromptCommand:
    """A command of the prompt."""

    usage: str  # the command with an example; one word if it takes no value
    help: str  # what it does, for ``/help``
    # Runs it, with the text after the command.
    run: Callable[[Any, PromptCommand, str], None]
    setting: str = ""  # the setting that it changes, if any


def _setting(usage: str, name: str) -> PromptCommand:
    return PromptCommand(usage, SAMPLE_SETTINGS[name].help, Prompt.set, name)


SETTINGS_COMMANDS = (
    _setting("/temp 0.7", "temperature"),
    _setting("/top-k 40", "top_k"),
    _setting("/top-p 0.9", "top_p"),
    _setting("/min-p 0.05", "min_p"),
    _setting("/penalty 1.1", "repetition_penalty"),
    _setting("/tokens 200", "tokens"),
    _setting("/seed 7", "seed"),
    PromptCommand("/stop TEXT", "End before this text; /stop: no such text", Prompt.set_stop),
    PromptCommand("/probs on", "Colour tokens by probability", Prompt.set_colours),
    PromptCommand("/show", "List the settings and the model", Prompt.show),
    PromptCommand("/help", "List the commands", Prompt.help),
    PromptCommand("/quit", "Leave; Ctrl-D does too", Prompt.quit),
)


def by_name(commands: Sequence[PromptCommand]) -> dict[str, PromptCommand]:
    """Return commands by what follows their slash."""
    return {command.usage.split()[0].removeprefix("/"): command for command in commands}


COMMANDS = by_name(SETTINGS_COMMANDS)
ALIASES = {"temperature": "temp", "repetition-penalty": "penalty", "exit": "quit"}


def changed(settings: SampleConfig, command: PromptCommand, value: str) -> SampleConfig:
    """Return the settings with the command's setting changed.

    Raises:
        Usage: the value is not a number of the right kind, or out of range.
    """
    kind = type(getattr(settings, command.setting))
    try:
        number = kind(value)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise Usage(f"{command.usage.split()[0]} takes {wanted}, such as {command.usage}") from None
    fields: dict[str, Any] = {command.setting: number}
    return replace(settings, **fields)


def _unescaped(text: str) -> str:
    r"""Return the text of ``\n`` or ``"\n\n"``."""
    try:
        text = " ".join(shlex.split(text)) if text.startswith(("'", '"')) else text
    except ValueError as error:
        raise Usage(f"/stop {text}: {error}") from error
    text = unescaped(text)
    if not text:
        raise Usage("/stop takes a text, such as /stop \\n\\n; /stop alone: no stop")
    return text


@contextmanager
def interrupts(call: Callable[[], object]) -> Iterator[None]:
    """Call a function on the first Ctrl-C; a second one interrupts the program."""
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        call()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _session(toolbar: Callable[[], str], commands: list[str]) -> PromptSession[str]:
    """Return the line editor, with the history of prompts and completion of commands."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    history: History = InMemoryHistory()
    path = cache_dir() / HISTORY
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        history = FileHistory(path)
    except OSError:
        pass  # without a writable cache there is no history
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return PromptSession(
        history=history,
        completer=WordCompleter(commands, sentence=True),
        complete_while_typing=False,
        key_bindings=keys,
        bottom_toolbar=toolbar,
    )
