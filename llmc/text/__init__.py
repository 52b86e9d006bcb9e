"""Text from anywhere, as documents: files, folders, archives, addresses, the hub, stdin."""
