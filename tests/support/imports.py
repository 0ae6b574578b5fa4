"""Every import among a project's own modules, read from its source and wherever it stands."""

import ast
from dataclasses import dataclass
from pathlib import Path

import networkx as nx


@dataclass(frozen=True)
class Tree:
    """The modules of some packages below ``root``, and the order of what stands in each package.

    ``order`` lists the packages, and for each its rooms and single modules ("errors.py"), in the
    order in which they may import: later ones from earlier ones.
    """

    root: Path
    order: dict[str, tuple[str, ...]]

    @property
    def modules(self) -> dict[str, Path]:
        paths = [path for package in self.order for path in (self.root / package).rglob("*.py")]
        return {self.name_of(path): path for path in sorted(paths)}

    def name_of(self, path: Path) -> str:
        parts = path.relative_to(self.root).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def imports(self) -> nx.DiGraph:
        """An edge for each import: in functions, under TYPE_CHECKING, or named in a string, as
        `importlib` and lazy ``__init__`` files do."""
        modules = self.modules
        graph = nx.DiGraph()
        graph.add_nodes_from(modules)
        for name, path in modules.items():
            found = imported(ast.parse(path.read_text()), modules)
            graph.add_edges_from((name, other) for other in found if other != name)
        return graph

    def cycles(self) -> list[list[str]]:
        groups = nx.strongly_connected_components(self.imports())
        return sorted(sorted(group) for group in groups if len(group) > 1)

    def order_faults(self) -> list[str]:
        """Imports of a later package, or of a later room of the same package."""
        return [
            f"{name} imports {other}"
            for name, other in self.imports().edges
            if name.count(".") and self.place(other) > self.place(name)
        ]

    def place(self, module: str) -> tuple[int, int]:
        package, *rest = module.split(".")
        names = ["", *(entry.removesuffix(".py") for entry in self.order[package])]
        room = rest[0] if rest and rest[0] in names else ""  # `unlisted` reports all others
        return list(self.order).index(package), names.index(room)

    def unlisted(self) -> list[str]:
        """Rooms and single modules that are not in the order."""
        return [
            f"{package}/{path.name}"
            for package, entries in self.order.items()
            for path in sorted((self.root / package).iterdir())
            if (path.suffix == ".py" or any(path.glob("*.py")))
            and path.name not in (*entries, "__init__.py")
        ]

    def crowded(self, most_rooms: int, most_modules: int) -> list[str]:
        """Packages of too many rooms, and rooms of too many modules; ``__init__`` is not counted,
        and a room inside a room is counted separately."""
        rooms = {
            package: len([entry for entry in entries if not entry.endswith(".py")])
            for package, entries in self.order.items()
        }
        modules: dict[str, int] = {}
        for path in self.modules.values():
            room = str(path.parent.relative_to(self.root))
            modules[room] = modules.get(room, 0) + (path.name != "__init__.py")
        return [
            *(f"{package}: {n} rooms" for package, n in rooms.items() if n > most_rooms),
            *(f"{room}: {n} modules" for room, n in modules.items() if n > most_modules),
        ]

    def indirect(self) -> list[str]:
        """Names that a module imports from one that does not define them itself."""
        modules = self.modules
        trees = {name: ast.parse(path.read_text()) for name, path in modules.items()}
        defined = {name: defined_in(tree) for name, tree in trees.items()}
        return [
            f"{name} imports {alias.name} from {node.module}"
            for name, tree in trees.items()
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module in modules
            for alias in node.names
            if f"{node.module}.{alias.name}" not in modules
            and alias.name not in defined[node.module]
        ]


def imported(tree: ast.Module, modules: dict[str, Path]) -> set[str]:
    """Which of the modules a module names in its imports and strings."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in modules else node.module)
        elif isinstance(node, ast.Dict):  # the table of a lazy `__init__`
            found |= {x.value for x in node.values if isinstance(x, ast.Constant)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {x.value for x in node.args if isinstance(x, ast.Constant)}
        elif isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
            start = node.values[0].value  # f"analysis.cli.commands.{module}": any module of it
            found |= {name for name in modules if start.endswith(".") and name.startswith(start)}
    return found & set(modules)


def defined_in(tree: ast.Module) -> set[str]:
    """The names that a module binds at its top level other than by importing them."""
    found = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            found |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    return found
