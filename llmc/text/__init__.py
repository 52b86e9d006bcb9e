"""Read documents from anything: files, folders, archives, addresses, the hub, stdin."""
