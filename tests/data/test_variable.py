"""Variables that are not what their card says, or whose card changes its digest by saying what held before."""

from __future__ import annotations

import json

import pytest

from emukit.data.card import load_card, parse_card
from emukit.data.protocol import make_split
from emukit.data.variable import Variable
from emukit.emulators.climatology import ClimatologyEmulator
from emukit.emulators.registry import load_emulator
from emukit.errors import StoreError
from emukit.files import shipped
from emukit.runs.record import card_digest
from tests.coded import warming_archive

SAID = {"units": "mm/day", "range": (0.0, 1.0), "largest": (0.0, 1.0), "what": "x"}
# Digests that run folders of before hold.
DIGESTS = {
    "cse151b-2025": "4c89c97f06c29143e3182c61d8a998498c30f82add7592e8eadaef61686db8db",
    "cse151b-k360": "cefd9b2d3052497e6480d52e5512694d7f53a580c5fa858ae8d155ac59fdacd5",
    "demo": "dda73cd9142a1f5e8a97fbbd5c6f10537120c5e88bec999582962fc97a9ce5a1",
}


def changed(**of_pr: object):
    settings = load_card("demo").model_dump()
    settings["targets"]["pr"] = {**settings["targets"]["pr"], **of_pr}
    return parse_card(settings, "tests")


@pytest.mark.parametrize("name", DIGESTS)
def test_a_shipped_card_has_another_digest_than_the_runs_trained_under_it(name):
    assert card_digest(load_card(name)) == DIGESTS[name]


def test_a_card_that_says_what_holds_anyway_has_another_digest():
    plain = changed()
    assert changed(bounds={"lower": 0.0}, long_name="Rain", colours="PuOr").deciding == plain.deciding
    for other in ({"bounds": {}}, {"bounds": {"lower": 0.0, "upper": 300.0}}, {"transform": "log1p"},
                  {"standard_name": ""}, {"cell_methods": "time: maximum"}):  # fmt: skip
        assert changed(**other).deciding != plain.deciding


def test_a_card_s_word_is_not_taken_over_what_its_name_implies():
    assert Variable(name="pr", **SAID).bounds.lower == 0.0
    assert Variable(name="pr", **SAID, bounds={}).bounds.lower is None
    assert Variable(name="rain", **SAID).bounds.lower is None
    assert Variable(name="pr", **SAID).standard_name == "lwe_precipitation_rate"
    by_mass = Variable(name="pr", **{**SAID, "units": "kg m-2 s-1"})
    assert (by_mass.standard_name, by_mass.role) == ("precipitation_flux", "precipitation")
    assert Variable(name="tas", **SAID).role == "temperature"
    assert Variable(name="tasmax", **SAID).role == ""
    assert Variable(name="t2m", **SAID, standard_name="air_temperature").role == "temperature"
    # What nothing is known of has its own sentence for a name.
    assert Variable(name="rain", **SAID).attributes["long_name"] == "x"


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ({"bounds": {"lower": 1.0, "upper": 1.0}}, "lower must be below upper"),
        ({"bounds": {"least": 1.0}}, "targets.pr.bounds.least"),
        ({"colours": "no map"}, "targets.pr.colours"),
        ({"transform": "log1p", "bounds": {}, "range": [-1.0, 9.0]}, "never negative"),
        ({"name": "precipitation"}, "pr.name: precipitation is not its key"),
        ({"transform": "log"}, "targets.pr.transform"),
    ],
)
def test_a_mistake_in_a_variable_is_not_named(table, word):
    with pytest.raises(StoreError, match=word):
        changed(**table)


def test_a_saved_emulator_loses_the_bounds_of_its_card(tmp_path):
    archive = warming_archive()
    settings = archive.card.model_dump()
    settings["targets"]["tas"]["bounds"] = {"lower": 281.0, "upper": 282.0}
    card = parse_card(settings, "tests")
    object.__setattr__(archive, "card", card)
    emulator = ClimatologyEmulator.fit(archive, make_split(archive))
    emulator.save(tmp_path / "e")
    again = load_emulator(tmp_path / "e")
    assert again.domain.card == card.model_copy(update={"published": None})
    # One of before said nothing of bounds: what its names imply holds.
    head = json.loads((tmp_path / "e" / "emulator.json").read_text())
    for table in (*head["card"]["targets"].values(), *head["card"]["forcings"].values()):
        for key in ("bounds", "standard_name", "long_name", "cell_methods", "colours", "transform"):
            del table[key]
    old = parse_card(head["card"], "tests")
    assert (old.targets["pr"].bounds.lower, old.targets["tas"].bounds.lower) == (0.0, None)


def test_shipped_cards_do_not_say_what_they_hold():
    for name in DIGESTS:
        text = shipped("data_cards", f"{name}.toml").read_text()
        assert "bounds = { lower = 0.0 }" in text
        assert 'standard_name = "air_temperature"' in text
