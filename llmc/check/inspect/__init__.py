"""What a file or a folder is: described, not printed; one kind of thing = one file.

:func:`llmc.check.inspect.describe.describe` looks at a path and returns a description. Nothing here
trusts what it reads: sizes are held against the file before anything is read or taken.
"""
