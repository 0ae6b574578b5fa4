"""What attention moves between layers: heads in features, and paths from writers to later MLPs."""

from typing import TYPE_CHECKING

from circuits.lazy import lazy

if TYPE_CHECKING:
    from circuits.algebra.cross import CrossInteractions as CrossInteractions
    from circuits.algebra.head import Head as Head
    from circuits.attention.frozen_run import frozen as frozen
    from circuits.attention.paths import TextPaths as TextPaths
    from circuits.attention.paths import text_paths as text_paths
    from circuits.attention.upstream import upstream_basis as upstream_basis

__getattr__, __dir__, __all__ = lazy(__name__)
