"""What several tests share: small models and runs, planted circuits, and where the project lies."""

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
