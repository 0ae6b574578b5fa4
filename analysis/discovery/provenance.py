"""Which model and dictionaries a circuit belongs to; those of another run are refused."""

from __future__ import annotations

from collections.abc import Mapping

from circuits.errors import DictionaryError, GraphError
from circuits.graph.circuit import Circuit
from circuits.model.model import Model
from circuits.model.site import Site, mlp_sites
from sae.dictionary import Dictionary


def check_dictionaries(model: Model, dictionaries: Mapping[Site, Dictionary]) -> None:
    """Refuse dictionaries that were trained on another model or elsewhere in it."""
    faults = []
    for site, dictionary in dictionaries.items():
        made_of = dictionary.notes.get("activations")
        trained_on = made_of.get("model") if isinstance(made_of, dict) else None
        if dictionary.site not in (None, site):
            faults.append(f"that of {site} was trained at {dictionary.site}")
        if dictionary.d_model != model.d_model:
            faults.append(f"{site} is for activations of {dictionary.d_model}, not {model.d_model}")
        elif trained_on is not None and trained_on != model.fingerprint:
            faults.append(
                f"{site} was trained on a model of hash {str(trained_on)[:12]}…, and this one has "
                f"{model.fingerprint[:12]}…"
            )
    if faults:
        raise DictionaryError(
            f"dictionaries of another model or site: {'; '.join(faults)}. Load the model that they "
            f"were trained on, or train new ones: circuits sae train."
        )


def layers_with_dictionaries(model: Model, dictionaries: Mapping[Site, Dictionary]) -> list[int]:
    """Those whose MLP has dictionaries at its input and its output."""
    return [i for i in range(model.n_layer) if set(mlp_sites(i)) <= set(dictionaries)]


def layer_of_circuit(
    model: Model, circuit: Circuit, dictionaries: Mapping[Site, Dictionary]
) -> int:
    """The circuit's layer; refused where the circuit is of another model or other dictionaries."""
    check_dictionaries(model, dictionaries)
    source, faults = circuit.source, []
    if source.layer is None:
        raise GraphError(
            f"circuit {circuit.name!r} does not say which layer it is of. Make it with "
            f"find_circuit or propose_circuits."
        )
    hashes = [("model", source.model, model.fingerprint)]
    known = {"inputs": source.inputs, "outputs": source.outputs}
    for (name, of_circuit), site in zip(known.items(), mlp_sites(source.layer), strict=True):
        if site in dictionaries:
            hashes.append((name, of_circuit, dictionaries[site].fingerprint))
        else:
            faults.append(f"there is no dictionary of {site}")
    for name, of_circuit, here in hashes:
        if of_circuit != here:
            faults.append(f"the hash of its {name} is {str(of_circuit)[:12]}…, here {here[:12]}…")
    if faults:
        raise GraphError(
            f"circuit {circuit.name!r} is of another run: {'; '.join(faults)}. Find it in this "
            f"one: circuits find."
        )
    return source.layer
