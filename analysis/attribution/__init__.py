"""Where a number comes from: contrasts split over layers and pairs, ledgers, output features."""
