"""How well a few eigenvectors approximate a feature: measured, saved and plotted."""
