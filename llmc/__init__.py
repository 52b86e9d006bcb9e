"""llmc: train GPT-2-class language models on the computer you already have."""

__version__ = "0.1.0"
