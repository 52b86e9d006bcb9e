"""Bytes to arrays and back, no policy. Mirrors ``native/format.h``; described in the docs."""
