"""Names that lead to another component than was meant, or to code that nobody has named.

A registry of its own, and packages that are installed in a folder: nothing of emukit's own components is imported.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from emukit.errors import RecipeError, RunError, StoreError
from emukit.registry import Entry, Plugin, Registry

# What the registry of these tests holds: anything that is a class.
GROUP = "emukit.tools"
OWN = {"json": Entry("emukit.terminal:one_line"), "error": Entry("emukit.errors:EmukitError", "an error")}


def make(**more) -> Registry[Entry]:
    keywords = {"entry": Entry, "accepts": lambda found: isinstance(found, type), "expected": "a class"} | more
    return Registry("tool", GROUP, OWN, **keywords)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package: its name and version, its entry points, its module."""
    monkeypatch.delenv("EMUKIT_TRUST", raising=False)
    before = set(sys.modules)

    def add(name: str, version: str, points: dict[str, str], module: str = "", text: str = "", group: str = GROUP):
        place = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
        info = place / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))
        if module:
            (place / f"{module}.py").write_text(text)
        monkeypatch.syspath_prepend(place)
        importlib.invalidate_caches()
        return place

    yield add
    for name in set(sys.modules) - before:
        if name.startswith("registry_"):
            del sys.modules[name]


CLASSES = "class Hammer: pass\nclass Saw: pass\ndef screw(): pass\n"


def test_a_name_of_ours_is_another_packages_or_an_installed_one_is_not_found(install):
    tools = make()
    assert [*tools] == ["json", "error"]
    assert len(tools) == 2
    install("shed", "1.2", {"hammer": "registry_shed:Hammer", "error": "registry_shed:Saw"}, "registry_shed", CLASSES)
    assert [*tools] == ["json", "error", "hammer"]
    assert len(tools) == 3
    assert {*tools.plugins} == {"hammer"}
    assert tools["error"] is OWN["error"]
    assert tools.load("error").__name__ == "EmukitError"
    assert "registry_shed" not in sys.modules, "listing names imports none"
    assert tools["hammer"] == Entry("registry_shed:Hammer", "of the package shed 1.2", "shed", "1.2")
    assert tools.load("hammer").__name__ == "Hammer"
    assert "saw" not in tools
    with pytest.raises(KeyError):
        tools["saw"]


def test_packages_are_looked_through_for_a_name_of_ours(monkeypatch):
    monkeypatch.setattr("emukit.registry._installed", lambda path: pytest.fail("looked through"))
    assert "error" in make()
    assert make().find("error") is OWN["error"]


def test_components_of_another_kind_of_package_are_taken(install):
    install("shed", "1", {"hammer": "registry_shed:Hammer"}, group="emukit.other_tools")
    install("barn", "1", {"rake": "registry_barn:Rake"}, group="pytest11.tools")
    assert [*make()] == [*OWN]
    assert not make().may_import("registry_shed:Hammer")


def test_where_a_component_came_from_is_said_otherwise(install):
    install("shed", "1.2", {"hammer": "registry_shed:Hammer"})
    tools = make()
    assert tools["hammer"].origin == "registry_shed:Hammer of shed 1.2"
    assert not tools["hammer"].built_in
    assert (OWN["error"].origin, OWN["error"].built_in) == ("emukit", True)
    assert Entry("mine:Tool").origin == "mine:Tool"
    # A package whose name begins like ours.
    assert not Entry("emukit_more.tools:Saw").built_in


def test_a_name_of_two_packages_is_one_of_them(install):
    install("barn", "2", {"hammer": "registry_barn:Hammer"})
    install("shed", "1", {"hammer": "registry_shed:Hammer"}, "registry_shed", CLASSES)
    tools = make()
    with pytest.raises(RecipeError, match=r"several packages have a tool hammer: .*shed 1.*, barn 2") as error:
        tools.load("hammer")
    assert "uninstall one of them" in str(error.value.hint)
    assert "several packages" in tools["hammer"].summary


def test_entry_points_that_cannot_be_used_are_listed_or_passed_over_in_silence(install):
    points = {"error": "registry_shed:Hammer", "-x": "registry_shed:Saw", "deep": "registry_shed:a.b", "ok": "a:B"}
    install("shed", "1.2", points)
    tools = make()
    assert [*tools] == [*OWN, "ok"]
    assert sorted(tools.ignored) == [
        "the tool -x of shed 1.2 is ignored: NAME = module:Name is wanted",
        "the tool deep of shed 1.2 is ignored: NAME = module:Name is wanted",
        "the tool error of shed 1.2 is ignored: emukit has one of that name",
    ]


def test_a_module_that_fails_is_a_traceback_or_blamed_on_emukit(install, monkeypatch):
    install(
        "shed", "1", {"a": "registry_broken:A", "b": "registry_whole:B"}, "registry_broken", "raise ValueError('x')"
    )
    install("barn", "1", {}, "registry_whole", CLASSES)
    for name, why in (("a", r"ValueError: x"), ("b", "AttributeError")):
        with pytest.raises(RecipeError, match=f"cannot import registry_.* of shed 1\n.*{why}"):
            make().load(name)
    # What is wrong with emukit itself is no mistake of the user.
    monkeypatch.delattr("emukit.terminal.one_line")
    with pytest.raises(AttributeError):
        OWN["json"].load()


def test_what_is_something_else_is_handed_out(install):
    install("shed", "1", {"screw": "registry_shed:screw"}, "registry_shed", CLASSES)
    with pytest.raises(RecipeError, match="screw is not a tool") as error:
        make().load("screw")
    assert error.value.found == "registry_shed:screw of shed 1: " + error.value.found.partition(": ")[2]
    assert error.value.expected == "a class"
    # A long description of it does not fill the terminal.
    install("barn", "1", {"long": "registry_long:long"}, "registry_long", f"long = {'x' * 5000!r}")
    with pytest.raises(StoreError) as error:
        make(error=StoreError).load("long")
    assert len(error.value.found) == 200


def stranger(install) -> Path:
    """A module that no package registers, and that leaves a mark where it is imported."""
    text = "import pathlib\npathlib.Path(__file__).with_name('imported').touch()\n" + CLASSES
    return install("mark", "1", {}, "registry_mark", text)


def test_what_only_a_file_names_is_imported(install, monkeypatch):
    place, tools = stranger(install), make()
    for trust in ("", "registry_marks", "registry_mark:Saw", "registry_mark.Hammer", ":Hammer"):
        monkeypatch.setenv("EMUKIT_TRUST", trust)
        assert not tools.may_import("registry_mark:Hammer")
        assert "registry_mark:Hammer" not in tools
        with pytest.raises(RecipeError, match="is code outside emukit, and only a file names it") as error:
            tools.find("registry_mark:Hammer")
        assert error.value.hint == "if you trust it: export EMUKIT_TRUST=registry_mark:Hammer"
        with pytest.raises(RecipeError):
            tools.load("registry_mark:Hammer")
    tools.admit("registry_mark:Saw")
    assert not tools.may_import("registry_mark:Hammer")
    assert not (place / "imported").exists()
    # A module that is trusted is no component itself.
    monkeypatch.setenv("EMUKIT_TRUST", "registry_mark")
    for name in ("registry_mark", "registry_mark:Hammer.mro", "registry_mark:Hammer:x"):
        assert not tools.may_import(name)
        assert name not in tools
    assert not (place / "imported").exists()
    for word in ("registry_mark:Hammer", "registry_mark", "a:B, registry_mark:Hammer ,x"):
        monkeypatch.setenv("EMUKIT_TRUST", word)
        assert tools.may_import("registry_mark:Hammer")
        assert tools.load("registry_mark:Hammer").__name__ == "Hammer"
    assert (place / "imported").exists()


def test_what_the_user_names_is_refused_or_found_without_being_one(install):
    stranger(install)
    tools = make()
    for name in ("registry_mark:Hammer", "registry_mark:screw", "os:system:x", "../x:Y", "x"):
        tools.admit(name)
    assert tools["registry_mark:Hammer"] == Entry("registry_mark:Hammer")
    assert tools.find("registry_mark:Hammer").load().__name__ == "Hammer"
    # It is there, and no tool.
    assert "registry_mark:screw" not in tools
    with pytest.raises(RecipeError, match="registry_mark:screw is not a tool"):
        tools.find("registry_mark:screw")
    for name in ("os:system:x", "../x:Y", "x", "os.path:join.x", "\u00e9:X", "mod\u00e9:X"):
        assert not tools.may_import(name)
        with pytest.raises(RecipeError, match="unknown tool") as error:
            tools.find(name)
        assert error.value.expected == "json, error"


def test_targets_of_installed_packages_and_of_emukit_need_leave(install):
    install("shed", "1.2", {"hammer": "registry_shed:Hammer"}, "registry_shed", CLASSES)
    tools = make()
    assert tools.may_import("registry_shed:Hammer")
    assert not tools.may_import("registry_shed:Saw")
    assert tools.may_import("emukit.errors:EmukitError")
    # Named in full, it is still of its package.
    assert tools["registry_shed:Hammer"] == Entry("registry_shed:Hammer", "", "shed", "1.2")
    with pytest.raises(RecipeError) as error:
        tools.find("nothing")
    assert error.value.expected == "json, error, hammer"


def test_files_keep_components_of_ours_twice_or_without_their_package(install):
    install("shed", "1.2", {"hammer": "registry_shed:Hammer"}, "registry_shed", CLASSES)
    stranger(install)
    tools = make()
    tools.admit("registry_mark:Saw")
    assert tools.used(["hammer", "error", "registry_mark:Saw", "hammer"]) == [
        Plugin("tool", "hammer", "registry_shed:Hammer", "shed", "1.2"),
        Plugin("tool", "registry_mark:Saw", "registry_mark:Saw", "", ""),
    ]
    with pytest.raises(RecipeError, match="unknown tool 'rake'"):
        tools.used(["rake"])
    assert [p.package for p in tools.used(["hammer", "registry_mark:Saw"])] == ["shed 1.2", "registry_mark"]


def test_a_file_is_read_with_another_component_than_it_was_written_with(install):
    install("shed", "1.2", {"hammer": "registry_shed:Hammer"}, "registry_shed", CLASSES)
    tools = make()
    # Of another version it may be.
    tools.check(Plugin("tool", "hammer", "registry_shed:Hammer", "shed", "1.0"), "the run r")
    for needed in (
        Plugin("tool", "hammer", "registry_shed:Hammer", "barn", "1.2"),
        Plugin("tool", "hammer", "registry_shed:Saw", "shed", "1.2"),
        Plugin("tool", "error", "registry_shed:Hammer", "shed", "1.2"),
    ):
        with pytest.raises(RunError, match=r"the run r needs the tool .* of another package than the one") as error:
            tools.check(needed, "the run r")
        assert error.value.expected == f"{needed.target} of the package {needed.package}"
        assert error.value.found == tools[needed.name].origin
        assert error.value.hint == f"install {needed.package}, and uninstall the other"
    with pytest.raises(RunError, match="needs the tool rake, which is not installed") as error:
        tools.check(Plugin("tool", "rake", "registry_x:Rake", "barn", "3"), "the run r")
    assert "pip install 'barn==3'" in error.value.hint
    assert error.value.expected == "registry_x:Rake of the package barn 3"
    with pytest.raises(RunError, match="code outside emukit that no installed package registers") as error:
        tools.check(Plugin("tool", "registry_x:Rake", "registry_x:Rake", "", ""), "the run r")
    assert error.value.hint.endswith("if you trust it: export EMUKIT_TRUST=registry_x:Rake")


def test_what_was_installed_since_is_not_seen(install):
    tools = make()
    assert "hammer" not in tools
    install("shed", "1.2", {"hammer": "registry_shed:Hammer"})
    assert "hammer" in tools
