"""Judge this machine, this build or a file: doctor, benchmarks, parity, inspection."""
