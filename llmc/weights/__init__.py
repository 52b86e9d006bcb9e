"""Read and write every checkpoint format, and make the random weights a run starts from."""
