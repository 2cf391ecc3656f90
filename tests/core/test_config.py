"""Settings: one base level, unknown keys named with the nearest, types and ranges checked, values round-trip."""

from dataclasses import dataclass, field

import pytest

from steps.core.cli import MissingInput
from steps.core.config import (
    ConfigError,
    check,
    from_dict,
    load_config,
    merge,
    nearest,
    read_yaml,
    save_config,
    to_dict,
)


@dataclass
class Inner:
    width: int = 4
    rate: float = 0.5


@dataclass
class Settings:
    name: str
    steps: int = 10
    rate: float = 0.1
    flag: bool = False
    sizes: list[int] = field(default_factory=lambda: [1])
    span: tuple[float, ...] = (0.0, 1.0)
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    many: list[Inner] = field(default_factory=list)
    limit: float | None = None
    table: dict = field(default_factory=dict)
    where: bool | str = True

    def __post_init__(self):
        check(self.steps > 0, "steps must be above 0")


@pytest.fixture
def write(tmp_path):
    def write_file(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def test_values_of_every_kind(write):
    path = write(
        "a.yaml",
        "name: x\nsteps: 3\nrate: 1e-3\nflag: true\nsizes: [1, 2]\nspan: [1, 2.5]\ninner: {width: 8}\n"
        "maybe: {rate: 2}\nmany: [{width: 1}, {}]\nlimit: null\ntable: {a: [1]}\n",
    )
    settings = load_config(Settings, path)
    assert settings == Settings(
        "x", 3, 0.001, True, [1, 2], (1.0, 2.5), Inner(8), Inner(rate=2.0), [Inner(1), Inner()], None, {"a": [1]}
    )
    assert isinstance(settings.maybe.rate, float) and isinstance(settings.span[0], float)


def test_resolved_settings_round_trip(write, tmp_path):
    settings = load_config(Settings, write("a.yaml", "name: ä\nmaybe: {width: 2}\nspan: [3]\nlimit: 2\n"))
    save_config(tmp_path / "b.yaml", settings)
    assert load_config(Settings, tmp_path / "b.yaml") == settings
    assert "ä" in (tmp_path / "b.yaml").read_text(encoding="utf-8")
    assert from_dict(Settings, to_dict(settings), "here") == settings


def test_base_is_merged_below_and_relative_to_the_naming_file(write):
    write("conf/base.yaml", "name: base\ninner: {width: 1, rate: 0.25}\nsizes: [1, 2, 3]\n")
    path = write("recipe/conf/a.yaml", "base: ../../conf/base.yaml\ninner: {width: 9}\nsizes: [7]\n")
    settings = load_config(Settings, path)
    assert (settings.name, settings.inner, settings.sizes) == ("base", Inner(9, 0.25), [7])


def test_only_one_base_level(write):
    write("a.yaml", "name: a\n")
    write("b.yaml", "base: a.yaml\n")
    with pytest.raises(ConfigError, match="base of its own"):
        read_yaml(write("c.yaml", "base: b.yaml\n"))
    with pytest.raises(ConfigError, match="base: must be"):
        read_yaml(write("d.yaml", "base: [a.yaml]\n"))
    with pytest.raises(MissingInput, match="nowhere.yaml"):
        read_yaml(write("e.yaml", "base: nowhere.yaml\n"))


def test_merge_replaces_all_but_mappings():
    below = {"a": {"b": 1, "c": 2}, "d": [1], "e": {"f": 1}}
    assert merge(below, {"a": {"b": 3}, "d": [], "e": None}) == {"a": {"b": 3, "c": 2}, "d": [], "e": None}
    assert below == {"a": {"b": 1, "c": 2}, "d": [1], "e": {"f": 1}}


@pytest.mark.parametrize("text, value", [("true", True), ("false", False), ("amx", "amx")])
def test_a_switch_may_take_words_too(write, text, value):
    assert load_config(Settings, write("a.yaml", f"name: x\nwhere: {text}\n")).where == value


WRONG = {
    "name: x\nwhere: 1": r"a\.yaml: where: expected bool or str, not 1",
    "name: x\nstep: 3": r"a\.yaml: unknown key 'step' \(did you mean 'steps'\?\)",
    "name: x\ninner: {widht: 3}": r"a\.yaml: inner: unknown key 'widht' \(did you mean 'width'\?\)",
    "name: x\nmany: [{}, {rat: 1}]": r"many\[1\]: unknown key 'rat'",
    "steps: 3": "key 'name' is missing",
    "name: x\nsteps: 0": r"a\.yaml: steps must be above 0",
    "name: x\nsteps: 2.5": "steps: expected int, not 2.5",
    "name: x\nsteps: true": "steps: expected int, not True",
    "name: x\nsteps: '3'": "steps: expected int, not '3'",
    "name: x\nflag: 1": "flag: expected bool, not 1",
    "name: x\nflag: 'no'": "flag: expected bool, not 'no'",
    "name: 3": "name: expected str, not 3",
    "name: x\nrate: fast": "rate: expected float, not 'fast'",
    "name: x\nrate: true": "rate: expected float, not True",
    "name: x\nrate: .inf": "rate: inf is not a finite number",
    "name: x\nrate: .nan": "rate: nan is not a finite number",
    "name: x\nrate: null": "rate: expected float, not None",
    "name: x\nsizes: 3": "sizes: expected a list, not 3",
    "name: x\nsizes: [1, a]": r"sizes\[1\]: expected int, not 'a'",
    "name: x\ninner: 3": "inner: expected a mapping, not 3",
    "name: x\ninner: null": "inner: expected a mapping, not None",
    "name: x\ntable: [1]": "table: expected dict",
    "name: x\nname: y": "key 'name' given twice",
    "inner: {width: 1, width: 2}\nname: x": "key 'width' given twice",
    "name: x\n3: y": "key 3 is not text",
    "name: [x": "not valid YAML",
    "[1, 2]": "expected a mapping",
    "name: !!python/object/apply:os.getcwd []": "not valid YAML",
}


@pytest.mark.parametrize("text", WRONG)
def test_mistakes_name_the_file_and_the_key(write, text):
    with pytest.raises(ConfigError, match=WRONG[text]) as error:
        load_config(Settings, write("a.yaml", text + "\n"))
    assert "a.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_unreadable_files(tmp_path, write):
    with pytest.raises(MissingInput, match="no such settings file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: ä\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_yaml(tmp_path / "latin.yaml")
    assert read_yaml(write("empty.yaml", "# nothing\n")) == {}


def test_nearest_word_or_all_of_them():
    assert nearest("taecher", ["student", "teacher"]) == " (did you mean 'teacher'?)"
    assert nearest("zzz", ["student", "teacher"]) == " (known: student, teacher)"
