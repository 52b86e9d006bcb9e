"""The commands, one file each: parse the options, call a stage, show the result."""
