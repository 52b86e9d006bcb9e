"""Describe a file or a folder; nothing here prints.

:func:`llmc.check.inspect.describe.describe` looks at a path and returns a description, built from
what the readers of each format return. Nothing trusts the contents of a file: sizes are compared
with the file before anything is read or allocated. A file that cannot be read is an OSError.
"""
