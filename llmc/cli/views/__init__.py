"""What a command shows on a terminal while it works, and at its end."""
