"""Turn documents into token files: tokenizers, encoding, shards, the manifest of a dataset."""
