"""Run training: start, follow and resume a run, and read what it recorded."""
