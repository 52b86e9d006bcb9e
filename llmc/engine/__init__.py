"""Build and drive the C engine: find the compiler, compile, run a process and read its events."""
