"""``python -m llmc``."""

from llmc.cli.main import main

if __name__ == "__main__":
    main()
