"""``llmc sample -i``: a person and a model that stays loaded, taking turns."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from llmc.cli.ui import Ui
from llmc.cli.views.sampling import TerminalView, legend, prompt_note, summary
from llmc.config import SampleConfig, nearest
from llmc.engine.generator import Generator
from llmc.engine.protocol import Request
from llmc.errors import Usage
from llmc.paths import cache_dir
from llmc.sample.model import SampleModel
from llmc.sample.text import Sample
from llmc.units import megabytes

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

HISTORY = "prompts"  # in the cache, for this person's eyes only


@dataclass(frozen=True)
class Command:
    """What a line that begins with a slash does.

    Attributes:
        usage: the command as it is typed; one word where it takes nothing.
        help: what it does, for ``/help``.
        setting: the setting that it changes, if it does that.
    """

    usage: str
    help: str
    setting: str = ""


COMMANDS = {
    "temp": Command("/temp 0.7", "below 1 likelier words, 0 always the likeliest", "temperature"),
    "top-k": Command("/top-k 40", "draw from the K likeliest, 0: from all", "top_k"),
    "top-p": Command("/top-p 0.9", "draw from the likeliest that together reach P", "top_p"),
    "min-p": Command("/min-p 0.05", "draw from those P times as likely as the likeliest", "min_p"),
    "penalty": Command(
        "/penalty 1.1", "above 1 what the text holds becomes less likely", "repetition_penalty"
    ),
    "tokens": Command("/tokens 200", "tokens to write, at most", "tokens"),
    "seed": Command("/seed 7", "of the next text; each text after it takes the next one", "seed"),
    "stop": Command("/stop TEXT", "end before this text comes; /stop alone: before none"),
    "probs": Command("/probs on", "colour tokens by their probability; off: no longer"),
    "show": Command("/show", "what is set, and which model writes"),
    "help": Command("/help", "this"),
    "quit": Command("/quit", "leave; Ctrl-D does too"),
}
ALIASES = {"temperature": "temp", "repetition-penalty": "penalty", "exit": "quit"}
KEYS = (
    ("Enter", "send the prompt; an empty one goes on with the text"),
    ("Alt-Enter", "begin a new line in the prompt"),
    ("Up, Down", "earlier prompts; Ctrl-R searches them"),
    ("Ctrl-C", "end the text that is being written, not the program"),
)


class Conversation:
    """Prompts in, texts out, until the person leaves.

    Attributes:
        settings: how the next text is written; its seed counts up.
        stops: what ends a text.
        ids: the last text with its prompt: what an empty prompt goes on from.
        view: where texts are shown.
    """

    def __init__(
        self,
        ui: Ui,
        generator: Generator,
        model: SampleModel,
        settings: SampleConfig,
        *,
        stops: Sequence[str] = (),
        eot: int,
    ) -> None:
        """Begin without a text; ``eot`` ends texts (``NO_TOKEN``: it does not)."""
        self.settings = settings
        self.stops = list(stops)
        self.ids: list[int] = []
        self._ui = ui
        self._generator = generator
        self._sampled = model
        self._eot = eot
        self.view = TerminalView()

    def run(self, first: str | None = None) -> None:
        """Ask for prompts and answer them until Ctrl-D or ``/quit``.

        Args:
            first: a prompt to begin with.

        Raises:
            LlmcError: the engine ended, and why.
        """
        session = _session(self._toolbar)
        self._ui.note(f"{self._model()}; /help tells what can be typed, Ctrl-D leaves")
        if first is not None:
            self.answer(first)
        while True:
            # Ctrl-C gives up the line, as in a shell; also just before the prompt is there.
            try:
                if not self.take(session.prompt("> ")):
                    return
            except KeyboardInterrupt:
                continue
            except EOFError:
                return

    def take(self, line: str) -> bool:
        """Do what a line asks for; return False when it asks to leave.

        Raises:
            LlmcError: the engine ended, and why.
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

    def answer(self, prompt: str) -> None:
        """Write on from a prompt; from the last text if it is empty. Ctrl-C ends the text.

        Raises:
            LlmcError: the engine ended, and why.
        """
        assert self._sampled.tokenizer is not None
        if prompt:
            self.ids = self._sampled.tokenizer.encode(prompt)
        request = Request(self.ids or [self._sampled.eot], self.settings, self._eot)
        try:
            text = Sample(self._generator, self._sampled.tokenizer, request, self.stops)
        except Usage as error:
            self._ui.error(str(error))
            return
        long = prompt_note(len(self.ids), self._sampled.config.context) if prompt else None
        if long is not None:
            self._ui.note(long)
        with _interrupts(text.cancel), self.view:
            if prompt:
                self.view.prompt(self.ids, prompt)
            for written in text:
                self.view.show(written)
        self.ids += text.ids
        self.settings = replace(self.settings, seed=(self.settings.seed + 1) % 2**53)
        self._ui.console.print(f"{summary([text], 0)}; seed {text.seed}", style="dim")
        if self.view.colours:
            self._ui.console.print(legend())

    def _command(self, name: str, rest: str) -> bool:
        """Run a command; return False when it asks to leave.

        Raises:
            Usage: there is none of that name, or it cannot take that value.
        """
        command = COMMANDS.get(name)
        if command is None:
            known = nearest(f"/{name}", [f"/{known}" for known in COMMANDS])
            raise Usage(f"there is no /{name}{known} (a prompt that begins with / is typed as //)")
        if rest.strip() and " " not in command.usage:
            raise Usage(f"{command.usage} takes nothing after it")
        if command.setting:
            if rest.strip():
                self.settings = changed(self.settings, command, rest.strip())
            self._ui.note(f"{command.setting}: {getattr(self.settings, command.setting)}")
        elif name == "stop":
            self.stops = [_unescaped(rest)] if rest else []
            self._ui.note(f"stop: {self._stops()}")
        elif name == "probs":
            self.view.colours = _switched(self.view.colours, rest.strip())
            self._ui.note(f"colours by probability: {'on' if self.view.colours else 'off'}")
        elif name == "show":
            self._show()
        elif name == "help":
            self._help()
        return name != "quit"

    def _show(self) -> None:
        for name, value in vars(self.settings).items():
            self._ui.note(f"{name.replace('_', ' '):<20} {value}")
        self._ui.note(f"{'stop':<20} {self._stops()}")
        self._ui.note(f"{'model':<20} {self._model()}")

    def _help(self) -> None:
        width = max(len(command.usage) for command in COMMANDS.values()) + 2
        for command in COMMANDS.values():
            self._ui.note(f"{command.usage:<{width}}{command.help}")
        for key, what in KEYS:
            self._ui.note(f"{key:<{width}}{what}")

    def _stops(self) -> str:
        return ", ".join(map(repr, self.stops)) or "none"

    def _model(self) -> str:
        ready = self._generator.ready
        return (
            f"{self._sampled.checkpoint}: {ready.dtype}, {megabytes(ready.memory_bytes)}, "
            f"{ready.positions:,} tokens of context"
        )

    def _toolbar(self) -> str:
        """Return what differs from the defaults, for the line below the prompt."""
        default, now = vars(SampleConfig()), vars(self.settings)
        said = [f"{self.settings.tokens} tokens", f"seed {self.settings.seed}"]
        said += [
            f"{name.replace('_', '-')} {value}"
            for name, value in now.items()
            if value != default[name] and name not in ("tokens", "seed")
        ]
        return " · ".join([*said, "/help"])


def changed(settings: SampleConfig, command: Command, value: str) -> SampleConfig:
    """Return settings with one of them changed by what a person typed.

    Raises:
        Usage: it is not such a number.
    """
    kind = type(getattr(settings, command.setting))
    try:
        number = kind(value)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise Usage(f"{command.usage.split()[0]} takes {wanted}, such as {command.usage}") from None
    fields: dict[str, Any] = {command.setting: number}
    return replace(settings, **fields)


def _switched(now: bool, value: str) -> bool:
    """Return what a switch is set to by a word; the other way than now by none.

    Raises:
        Usage: it is no such word.
    """
    if value not in ("", "on", "off"):
        raise Usage("/probs takes on or off; /probs alone: the other way than now")
    return value == "on" if value else not now


def _unescaped(text: str) -> str:
    r"""Return what a person means by ``\n`` or ``"\n\n"``.

    Raises:
        Usage: it is nothing.
    """
    try:
        text = " ".join(shlex.split(text)) if text.startswith(("'", '"')) else text
    except ValueError as error:
        raise Usage(f"/stop {text}: {error}") from error
    text = text.replace(r"\n", "\n").replace(r"\t", "\t")
    if not text:
        raise Usage("/stop takes a text, such as /stop \\n\\n; /stop alone: nothing ends it")
    return text


@contextmanager
def _interrupts(call: Callable[[], object]) -> Iterator[None]:
    """Let Ctrl-C call something once; a second one interrupts the program as ever."""
    before = signal.getsignal(signal.SIGINT)

    def heard(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        call()

    signal.signal(signal.SIGINT, heard)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _session(toolbar: Callable[[], str]) -> PromptSession[str]:
    """Return what reads lines: with the prompts of earlier days, and commands after a slash."""
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
        pass  # a cache that cannot be written forgets: no reason not to talk
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return PromptSession(
        history=history,
        completer=WordCompleter([f"/{name}" for name in COMMANDS], sentence=True),
        complete_while_typing=False,
        key_bindings=keys,
        bottom_toolbar=toolbar,
    )
