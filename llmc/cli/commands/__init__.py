"""The commands: one file, one command, one test file, one paragraph in the README."""
