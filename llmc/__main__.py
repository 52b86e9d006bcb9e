"""``python -m llmc``."""

from llmc.cli import main

if __name__ == "__main__":
    main()
