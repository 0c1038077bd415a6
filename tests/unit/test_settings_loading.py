"""Settings from files: YAML, JSON, RESILIENCE_CONFIG, and where in a file it went wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from resilience.errors import ConfigurationError
from resilience.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

YAML = """
routes:
  chat:
    targets: [openai/a, {model: anthropic/b, api_key: os.environ/KEY}]
breaker: {open_seconds: 3}
"""


@pytest.fixture
def write(tmp_path: Path):
    def to(name: str, text: str | bytes) -> Path:
        file = tmp_path / name
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    return to


def wrong(source: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(source)  # type: ignore[arg-type]
    assert caught.value.__context__ is None
    return str(caught.value)


def test_yaml_and_json_and_their_paths_in_both_forms_give_the_same(write) -> None:
    file = write("r.yaml", YAML)
    settings = Settings.load(file)
    as_json = write("r.json", settings.model_dump_json())
    assert settings.breaker.open_seconds == 3
    assert Settings.load(str(file)) == Settings.load(as_json) == settings


@pytest.mark.parametrize("name", ["empty.yaml", "empty.json"])
@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file_is_empty_settings(write, name: str, text: str) -> None:
    assert Settings.load(write(name, text)) == Settings()


def test_a_byte_order_mark_and_json_in_a_yaml_file_do_no_harm(write) -> None:
    assert Settings.load(write("b.yaml", b"\xef\xbb\xbfwarm: false")).warm is False
    assert Settings.load(write("j.yaml", json.dumps({"warm": False}))).warm is False
    assert Settings.load(write("b.json", b'\xef\xbb\xbf{"warm": false}')).warm is False


def test_without_a_source_the_environment_names_the_file(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESILIENCE_CONFIG", raising=False)
    assert Settings.load() == Settings()
    monkeypatch.setenv("RESILIENCE_CONFIG", "")
    assert Settings.load(None) == Settings()
    monkeypatch.setenv("RESILIENCE_CONFIG", str(write("r.yaml", YAML)))
    assert Settings.load(None).breaker.open_seconds == 3
    assert Settings.load({}) == Settings(), "an explicit source wins"
    monkeypatch.setenv("RESILIENCE_CONFIG", "/nowhere/r.yaml")
    assert wrong(None) == "/nowhere/r.yaml (named by RESILIENCE_CONFIG): there is no such file"


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert wrong("gone.yaml") == f"gone.yaml: there is no such file (looked in {tmp_path})"
    assert wrong(tmp_path) == f"{tmp_path}: this is a directory; allowed: a YAML or JSON file"
    assert wrong("") == "the settings file's path is empty"
    assert wrong("a\0b").endswith("cannot be read (ValueError)")
    assert wrong(write("latin.yaml", "name: caf\xe9".encode("latin-1"))).endswith("latin.yaml: byte 9 is not UTF-8")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "r.yaml",
            "routes:\n  chat: [a\n  api_key: sk-planted\n",
            "line 3, column 10: expected ',' or ']', but got ':'",
        ),
        ("r.yaml", "a: b: c", "line 1, column 5: mapping values are not allowed here"),
        ("r.yaml", "a:\n\t- b", "line 2, column 1: found character '\\t' that cannot start any token"),
        ("r.yaml", "warm: false\nwarm: true", "line 2, column 1: the key 'warm' is given twice"),
        ("r.yaml", "breaker:\n  jitter: 0\n  jitter: 0.1", "line 3, column 3: the key 'jitter' is given twice"),
        ("r.yaml", "a: *nobody", "line 1, column 4: found undefined alias 'nobody'"),
        ("r.yaml", "a: !!python/object:os.system {}", "line 1, column 4: could not determine a constructor"),
        ("r.yaml", "a: &a [*a]", "line 1, column 4: found unconstructable recursive node"),
        ("r.yaml", "a: 1\x01", "not YAML: special characters are not allowed"),
        ("r.yaml", "a: 2024-13-45", "not YAML: ValueError"),
        ("r.yaml", "a: 1\n---\nb: 2", "line 2, column 1: but found another document"),
        ("r.yaml", "- a", "holds a list; allowed: a mapping"),
        ("r.yaml", "sk-planted", "holds a text; allowed: a mapping"),
        ("r.json", '{"warm": true,\n}', "line 2, column 1: not JSON: Expecting property name"),
        ("r.json", '{"warm": true, "warm": false}', "the key 'warm' is given twice"),
        ("r.json", "[" * 100_000, "nested too deeply"),
        ("r.yaml", "[" * 3_000, "nested too deeply"),
        ("r.json", "[1]", "holds a list; allowed: a mapping"),
    ],
)
def test_a_broken_file_is_told_with_line_and_column_and_without_its_text(
    write, name: str, text: str, told: str
) -> None:
    file = write(name, text)
    message = wrong(file)
    assert message.startswith(f"{file}: ")
    assert told in message
    assert "planted" not in message


def test_wrong_settings_in_a_file_name_the_file(write) -> None:
    one = write("one.yaml", "wram: true")
    assert wrong(one).startswith(f"{one}: wram: unknown key; did you mean 'warm'?")
    two = write("two.yaml", "wram: true\nbreaker: {jitter: 2}")
    assert wrong(two).startswith(f"2 errors in {two}:\n  wram: unknown key")


def test_a_merged_key_may_be_overridden(write) -> None:
    text = "breaker: &b {jitter: 0, open_seconds: 3}\ntarget_breaker: {<<: *b, jitter: 0.5}"
    settings = Settings.load(write("m.yaml", text))
    assert (settings.target_breaker.jitter, settings.target_breaker.open_seconds) == (0.5, 3)
