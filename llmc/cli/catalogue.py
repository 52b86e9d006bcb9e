"""What help shows of each command beside its options: group, summary, examples, page."""

from __future__ import annotations


class About:
    """A command in the lists and on its help page.

    Attributes:
        group: heading that ``llmc --help`` lists it under.
        summary: one line; the command's docstring opens with it.
        page: the documentation, below ``docs/``.
        examples: commands that work as they stand, each with what it does.
    """

    def __init__(self, group: str, summary: str, page: str, *examples: tuple[str, str]) -> None:
        self.group, self.summary, self.page, self.examples = group, summary, page, examples


MAIN, RUNS, STAGES, TOOLS = "From a text to a model", "Runs", "Single stages", "Machine and help"

COMMANDS = {
    "prepare": About(
        MAIN,
        "Fetch and tokenize a text and build the engine.",
        "guide/prepare.md",
        ("llmc prepare stdlib", "Python's standard library; needs no network"),
        ("llmc prepare notes/ --tokenizer bpe:4096", "your own text"),
    ),
    "train": About(
        MAIN,
        "Train a model. Ctrl-C finishes the step and saves.",
        "guide/training.md",
        ("llmc train --for 30m", "choose the model and every setting for this time"),
        ("llmc train --config python-stdlib", "train a small GPT with a preset"),
        ("llmc train --config python-stdlib --dry-run", "show memory and time, write nothing"),
        ("llmc train --resume", "continue the newest run"),
    ),
    "sample": About(
        MAIN,
        "Generate text with a trained model.",
        "guide/sampling.md",
        ("llmc sample --decode --prompt 'def '", "continue a prompt"),
        ("llmc sample -i", "ask for prompts until Ctrl-D"),
    ),
    "chat": About(
        MAIN,
        "Talk with a model that was trained on conversations.",
        "guide/chat.md",
        ("llmc chat", "ask the newest run, until Ctrl-D"),
        ("llmc chat --prompt 'What does os.getcwd do?'", "one question"),
    ),
    "serve": About(
        MAIN,
        "Serve a model over HTTP: OpenAI's API and a web page.",
        "guide/serving.md",
        ("llmc serve", "serve the newest run on http://127.0.0.1:8000"),
    ),
    "eval": About(
        MAIN,
        "Measure a model: loss, perplexity, bits per byte, HellaSwag.",
        "guide/eval.md",
        ("llmc eval", "the newest run on its validation tokens"),
        ("llmc eval models/gpt2.bin --task hellaswag", "OpenAI's GPT-2 on HellaSwag"),
    ),
    "runs": About(
        RUNS,
        "List the training runs: progress, speed and loss.",
        "guide/runs.md",
        ("llmc runs --sort val", "best validation loss first"),
    ),
    "sweep": About(
        RUNS,
        "Compare training settings in short trials.",
        "guide/sweep.md",
        ("llmc sweep --lr 5e-4,1e-3,2e-3 --for 2m", "which learning rate?"),
    ),
    "plot": About(
        RUNS,
        "Plot training curves in the terminal, as a picture or as a page.",
        "guide/plot.md",
        ("llmc plot", "the newest run's loss"),
        ("llmc plot --out loss.html", "a page with all metrics"),
    ),
    "inspect": About(
        RUNS,
        "Describe a file or folder and report what is wrong with it.",
        "guide/inspect.md",
        ("llmc inspect runs", "every run of the workspace"),
    ),
    "fetch": About(
        STAGES,
        "Download a dataset, an evaluation or a model's weights.",
        "guide/downloads.md",
        ("llmc fetch tinyshakespeare", "a text of 1 MB"),
        ("llmc fetch gpt2", "OpenAI's GPT-2, 124 million parameters"),
    ),
    "tokenize": About(
        STAGES,
        "Turn text into token files to train on.",
        "guide/tokenizing.md",
        ("llmc tokenize notes/ --tokenizer byte", "every file below a folder"),
        ("llmc tokenize 'shards/*.jsonl' --field text", "documents in JSON lines"),
    ),
    "export-weights": About(
        STAGES,
        "Write weights to train from, or for another program.",
        "guide/weights.md",
        ("llmc export-weights gpt2", "a checkpoint of OpenAI's GPT-2 to train from"),
        ("llmc export-weights RUN --to gguf", "a run for llama.cpp"),
        ("llmc export-weights RUN --to hf --license mit", "a folder to upload, with a model card"),
    ),
    "decode": About(
        STAGES,
        "Turn token ids into text.",
        "guide/sampling.md",
        ("llmc sample | llmc decode", "text as the model generates it"),
    ),
    "bench": About(
        TOOLS,
        "Benchmark training steps, kernels, decoding or instruction sets.",
        "reference/bench.md",
        ("llmc bench", "training steps of GPT-2 124M"),
        ("llmc bench decode --dtype int8", "generating token by token"),
    ),
    "build": About(
        TOOLS,
        "Compile the C engine, for this machine or another.",
        "guide/build.md",
        ("llmc build --force", "compile again"),
    ),
    "doctor": About(
        TOOLS,
        "Check this machine and this installation.",
        "guide/doctor.md",
        ("llmc doctor", "takes seconds; needs no network"),
    ),
    "help": About(
        TOOLS,
        "Show the help of llmc or of one command.",
        "guide/command-line.md",
        ("llmc help train", "the same as llmc train --help"),
    ),
}

START = (
    ("llmc prepare stdlib", "a text to train on; needs no network"),
    ("llmc train --config python-stdlib", "train a small GPT on it"),
    ("llmc sample --decode", "generate text with it"),
)
