"""What lies on disk: files that are whole or absent, shards, manifest, downloads, checkpoints."""
