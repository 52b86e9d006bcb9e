"""``llmc chat`` on a terminal: a conversation with a model that stays loaded."""

from __future__ import annotations

from pathlib import Path

from llmc.cli.conversation import (
    SETTINGS_COMMANDS,
    Prompt,
    PromptCommand,
    Session,
    by_name,
    interrupts,
)
from llmc.errors import LlmcError, Usage
from llmc.sample.chat import Chat
from llmc.text.conversations import USER

KEYS = (
    ("Enter", "Send the message"),
    ("Alt-Enter", "New line in the message"),
    ("Up, Down", "Earlier messages; Ctrl-R searches them"),
    ("Ctrl-C", "End the answer that is being written, not the program"),
)


class ChatPrompt(Prompt):
    """An interactive conversation.

    Attributes:
        chat: what was said, and the model that answers.
    """

    def __init__(self, session: Session, *, system: str = "") -> None:
        """Begin a conversation, with the message ``system`` if it is not empty.

        Raises:
            BadData: the model was not trained on conversations.
        """
        super().__init__(session, commands=COMMANDS, keys=KEYS)
        self.chat = Chat(session.model, session.generator, session.settings)
        self.chat.set_system(system)

    def answer(self, prompt: str) -> None:
        """Answer a message; nothing is asked by an empty one. Ctrl-C ends the answer.

        Raises:
            LlmcError: the engine has ended.
        """
        if prompt.strip():
            self.chat.say(prompt)
            self._answer()

    def _answer(self) -> None:
        chat = self.chat
        chat.settings, chat.stops = self.settings, self.stops
        try:
            sample = chat.answer()
        except Usage as error:
            chat.undo()
            self._ui.error(str(error))
            return
        if chat.dropped:
            self._ui.note(f"the first {chat.dropped} messages are beyond the context now")
        with interrupts(sample.cancel), self.view:
            for token in chat.tokens(sample):
                self.view.show(token)
        chat.keep(sample)
        self.settings = chat.settings
        self.say_summary(sample)

    def set_system(self, command: PromptCommand, text: str) -> None:
        """Set the system's message, or remove it."""
        self.chat.set_system(text.strip())
        self._ui.note(f"system: {text.strip() or 'none'}")

    def undo(self, command: PromptCommand, rest: str) -> None:
        """Take back the last message and its answer."""
        undone = self.chat.undo()
        self._ui.note("took back a message and its answer" if undone else "nothing is said yet")

    def again(self, command: PromptCommand, rest: str) -> None:
        """Answer the last message anew."""
        asked = [message for message in self.chat.messages if message.role == USER]
        if self.chat.undo():
            self.answer(asked[-1].content)
        else:
            self._ui.note("nothing is said yet")

    def clear(self, command: PromptCommand, rest: str) -> None:
        """Begin a new conversation."""
        self.chat.clear()
        self._ui.note("a new conversation")

    def save(self, command: PromptCommand, path: str) -> None:
        """Add the conversation to a file.

        Raises:
            Usage: no file is named, or nothing is said.
        """
        if not path.strip():
            raise Usage("/save takes a file, such as /save talks.jsonl")
        if not any(message.role == USER for message in self.chat.messages):
            raise Usage("nothing is said yet: there is nothing to save")
        try:
            self.chat.save(Path(path.strip()))
        except LlmcError as error:
            self._ui.error(str(error))
            return
        self._ui.note(f"added {len(self.chat.messages)} messages to {path.strip()}")


_COMMANDS = (
    PromptCommand("/system TEXT", "Message of the system; /system: none", ChatPrompt.set_system),
    PromptCommand("/undo", "Take back the last message and its answer", ChatPrompt.undo),
    PromptCommand("/again", "Answer the last message anew, with the next seed", ChatPrompt.again),
    PromptCommand("/new", "Begin a new conversation", ChatPrompt.clear),
    PromptCommand("/save FILE", "Add the conversation to a .jsonl to train on", ChatPrompt.save),
)
COMMANDS = by_name((*_COMMANDS, *SETTINGS_COMMANDS))
