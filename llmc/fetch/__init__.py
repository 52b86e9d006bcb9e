"""Bring files to this machine: HTTP, the Hugging Face hub, the download cache, archives."""
