"""Random faults: seeded, a few seconds here, and as long as you like with `make fuzz`."""
