"""Pages as values, and the files that they become: they open from disk, with no network."""
