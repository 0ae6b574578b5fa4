"""What has a slash and is no path is a mistyped path: the hub is asked only for ``hub:…``."""

import socket

import pytest

from tests.support.commands import command
from tests.support.small_models import small_folder


@pytest.fixture
def looked_up(monkeypatch):
    found = []

    def refuse(host, *_args, **_options):
        found.append(host)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return found


NAMED = {
    "model": ["model", "info", "NAME"],
    "tokenizer": ["model", "info", "MODEL", "--tokenizer", "NAME"],
    "generation": ["model", "generate", "NAME", "w5"],
    "text": ["model", "train", "RUN", "--text", "NAME"],
    "images": ["digits", "--data", "NAME"],
    "dictionary": ["sae", "info", "NAME"],
}


@pytest.mark.parametrize("kind", NAMED)
def test_a_path_that_does_not_exist_is_never_asked_of_the_hub(
    kind, tmp_path, looked_up, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    small_folder(tmp_path / "model")
    words = {"MODEL": "model", "RUN": "run", "NAME": "runs/stories"}
    done = command(*(words.get(word, word) for word in NAMED[kind]))
    assert done.returncode == 2
    assert "no such" in done.stderr
    assert "write hub:runs/stories to ask the Hugging Face hub" in done.stderr
    assert not looked_up


@pytest.mark.parametrize("kind", NAMED)
def test_a_name_on_the_hub_is_asked_for_where_it_is_written_so(
    kind, tmp_path, looked_up, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    small_folder(tmp_path / "model")
    words = {"MODEL": "model", "RUN": "run", "NAME": "hub:owner/name"}
    done = command(*(words.get(word, word) for word in NAMED[kind]))
    assert done.returncode == 2
    assert "named 'owner/name'" in done.stderr
    assert looked_up
