"""Which model and dictionaries a circuit belongs to; those of another run are refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from circuits.errors import DictionaryError, GraphError, shorten
from circuits.graph.circuit import Circuit
from circuits.model.model import Model
from circuits.model.site import Site, mlp_sites
from sae.dictionary import Dictionary


def check_dictionaries(model: Model, dictionaries: Mapping[Site, Dictionary]) -> None:
    """Refuse dictionaries that were trained on another model or elsewhere in it."""
    faults = []
    for site, dictionary in dictionaries.items():
        if dictionary.site not in (None, site):
            faults.append(f"that of {site} was trained at {dictionary.site}")
        if dictionary.target is not None:
            faults.append(f"that of {site} is a transcoder to {dictionary.target}")
        if dictionary.d_model != model.d_model:
            faults.append(f"{site} is for activations of {dictionary.d_model}, not {model.d_model}")
        elif (trained_on := dictionary.trained_on) not in (None, model.fingerprint):
            faults.append(
                f"{site} was trained on a model of hash {str(trained_on)[:12]}…, and this one has "
                f"{model.fingerprint[:12]}…"
            )
    if faults:
        raise DictionaryError(
            f"dictionaries of another model or site: {'; '.join(faults)}. Load the model that they "
            f"were trained on, or train new ones: circuits sae train."
        )


def layers_with_dictionaries(
    model: Model,
    dictionaries: Mapping[Site, Dictionary],
    points: Iterable[str] = ("mlp_in", "mlp_out"),
) -> list[int]:
    """Those with dictionaries at all of these points."""
    sites = set(dictionaries)
    return [i for i in range(model.n_layer) if {Site(point, i) for point in points} <= sites]


def wanted_layers(
    model: Model,
    dictionaries: Mapping[Site, Dictionary],
    layers: Iterable[int] | None,
    points: Iterable[str] = ("mlp_in", "mlp_out"),
) -> list[int]:
    """The layers, or all that have dictionaries at these points; refused where one has none."""
    there = layers_with_dictionaries(model, dictionaries, points)
    wanted = sorted(there if layers is None else set(layers))
    absent = [layer for layer in wanted if layer not in there]
    if absent or not wanted:
        missing = f"layer {', '.join(map(str, absent))}" if absent else "any layer"
        real = [layer for layer in absent if layer < model.n_layer]
        sites = [f"{point}@{layer}" for layer in real for point in points]
        options = " ".join(["", "--sites", *sites]) if sites else ""
        raise DictionaryError(
            f"there are no dictionaries of {' and '.join(points)} for {missing} (there are for "
            f"{there or 'none'}). Train them: circuits sae train RUN{options}"
        )
    return wanted


def layer_of_circuit(
    model: Model, circuit: Circuit, dictionaries: Mapping[Site, Dictionary]
) -> int:
    """The circuit's layer; refused where the circuit is of another model or other dictionaries."""
    source = circuit.source
    lost = [n for n in ("layer", "model", "inputs", "outputs") if getattr(source, n) is None]
    if source.layer is None or lost:
        raise GraphError(
            f"circuit {circuit.name!r} does not say of which {', '.join(lost)} it is. Make it with "
            f"find_circuit or propose_circuits."
        )
    check_circuit(model, circuit, dictionaries, f"circuit {circuit.name!r}", "circuits find")
    return source.layer


def check_circuit(
    model: Model,
    circuit: Circuit,
    dictionaries: Mapping[Site, Dictionary],
    place: str,
    command: str,
) -> None:
    """Refuse a circuit of another model or other dictionaries, or of features that they lack; one
    made by hand may lack hashes, which are then not compared."""
    source, faults = circuit.source, []
    assert source.layer is not None  # the caller knows it
    check_dictionaries(model, dictionaries)
    hashes = [("model", source.model, model.fingerprint)]
    inputs, outputs = mlp_sites(source.layer)
    parts = [
        (inputs, "inputs", source.inputs, [f.feature for f in circuit.features], 1),
        (outputs, "outputs", source.outputs, [o.feature for o in circuit.outputs], 0),
    ]
    for site, name, of_circuit, features, n_constant in parts:
        if site not in dictionaries:
            faults.append(f"there is no dictionary of {site}")
            continue
        hashes.append((name, of_circuit, dictionaries[site].fingerprint))
        n = dictionaries[site].n_feature
        if lost := sorted({f for f in features if not 0 <= f < n + n_constant}):
            faults.append(f"{site} has {n} features, and no {shorten(lost)}")
    faults += [
        f"the hash of its {name} is {of_circuit[:12]}…, here {here[:12]}…"
        for name, of_circuit, here in hashes
        if of_circuit not in (None, here)
    ]
    if faults:
        raise GraphError(
            f"{place} is of another run: {'; '.join(faults)}. Find it in this one: {command}"
        )
