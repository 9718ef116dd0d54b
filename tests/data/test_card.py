"""Cards: the shipped ones hold, and a wrong one is refused with every mistake."""

from __future__ import annotations

import pytest

from emukit.data.card import identify_card, load_card, parse_card, shipped_cards
from emukit.data.protocol import make_split
from emukit.data.store import open_store
from emukit.data.units import CONVERSIONS, same_units
from emukit.errors import StoreError
from emukit.files import shipped
from tests.data.stores import coded_dataset, hide


@pytest.mark.parametrize("name", shipped_cards())
def test_shipped_cards_are_whole(name):
    card = load_card(name)
    assert card.name == name
    if card.time == "month" and card.forcings:
        assert list(card.targets) == ["tas", "pr"]
        assert set(card.forcings) == {"CO2", "CH4", "SO2", "BC", "rsdt"}
        assert card.loso.validation_months == 120
    for q in card.quantities.values():
        assert all(same_units(q.units, s) or s in q.spellings for s in q.spellings)


def test_six_hourly_sequence_is_its_card_s(real_data):
    """It names neither scenario nor card nor, for the pressure, its units."""
    archive = open_store(real_data / "jcm_speedy_t31_6hourly_90d.nc")
    assert archive.card.name == "speedy-6h"
    (control,) = archive.values()
    assert (len(control), control.name, dict(control.forcings)) == (360, "control", {})
    assert archive.domain.temperature == archive.variables.index("t2m")
    ps = control.targets[0, 0, archive.variables.index("ps")]
    assert 50_000 < ps.min() < ps.max() < 115_000
    split = make_split(archive)
    assert [len(s) for s in (*split.train, *split.validation, split.test)] == [200, 40, 120]


@pytest.mark.parametrize("name", ["cse151b-2025", "cse151b-k360"])
def test_competition_cards_have_their_page(name):
    page = shipped("data_cards", f"{name}.md").read_text(encoding="utf-8")
    for words in ("CC BY 4.0", "cumulative", "GtCH4", "by index", "cse151b-spring2025-competition", "k360"):
        assert words in page


def test_protocols_are_the_published_ones():
    card = load_card("cse151b-k360")
    assert card.default_protocol == "k360"
    official, k360 = card.protocols["official"], card.protocols["k360"]
    assert (official.validation[0].scenario, official.validation[0].months) == ("ssp370", (-120, 0))
    assert (official.test[0].scenario, official.test[0].months) == ("ssp245", (-360, 0))
    assert (k360.validation[0].scenario, k360.validation[0].months) == ("ssp370", (-480, -360))
    assert (k360.test[0].scenario, k360.test[0].months) == ("ssp370", (-360, 0))
    assert load_card("cse151b-2025").default_protocol == "official"


def test_every_mistake_is_listed_with_its_path():
    settings = load_card("cse151b-2025").model_dump()
    settings["licens"] = "x"
    settings["targets"]["tas"]["range"] = ["low", "high"]
    settings["protocols"]["official"]["test"][0]["months"] = [0, -360]
    settings["loso"]["test_months"] = 0
    del settings["source"]
    with pytest.raises(StoreError) as error:
        parse_card(settings, "mine.toml")
    for words in (
        "mine.toml", "licens", "targets.tas.range", "protocols.official.test.0", "loso.test_months", "source",
    ):  # fmt: skip
        assert words in str(error.value)


def test_a_card_that_contradicts_itself():
    settings = load_card("cse151b-2025").model_dump()
    settings["default_protocol"] = "weekly"
    settings["protocols"]["k360"]["train"] = ["ssp126", "ssp999"]
    settings["hidden"] = {"ssp534": [-12, 0], "ssp126": [0, -12]}
    with pytest.raises(StoreError) as error:
        parse_card(settings, "mine.toml")
    for words in ("weekly", "ssp999", "hidden.ssp534", "hidden.ssp126: must be 'all' or"):
        assert words in str(error.value)


def test_cards_that_are_not_there_or_not_toml(tmp_path):
    with pytest.raises(StoreError, match="no data card cse152"):
        load_card("cse152")
    with pytest.raises(StoreError, match="cannot read"):
        load_card(tmp_path / "a.toml")
    (tmp_path / "a.toml").write_text("name = [")
    with pytest.raises(StoreError, match="not TOML"):
        load_card(tmp_path / "a.toml")


def test_a_card_by_path_is_the_same_card():
    assert load_card(shipped("data_cards", "cse151b-k360.toml")) == load_card("cse151b-k360")


def test_a_store_is_known_by_its_attribute_first():
    assert identify_card(coded_dataset().assign_attrs(emukit_card="demo")).name == "demo"
    with pytest.raises(StoreError, match="no data card mine"):
        identify_card(coded_dataset().assign_attrs(emukit_card="mine"))


def test_a_store_without_attribute_is_never_taken_for_the_demo():
    assert identify_card(coded_dataset()).name == "cse151b-2025"
    assert identify_card(hide(coded_dataset(), "ssp245", 0)).name == "cse151b-2025"
    assert identify_card(hide(coded_dataset(), "ssp245", 12)).name == "cse151b-2025"
    for start in (0, 12):  # copies differ in how much of ssp245 they hide
        assert identify_card(hide(hide(coded_dataset(), "ssp245", start), "ssp370", 12)).name == "cse151b-k360"


def test_what_may_be_hidden_is_cut_to_the_scenario():
    card = load_card("cse151b-k360")
    spans = [card.may_hide(s, n) for s in ("ssp245", "ssp370", "ssp126") for n in (1021, 24)]
    assert [(s.start, s.stop) for s in spans] == [(0, 1021), (0, 24), (661, 1021), (0, 24), (1021, 1021), (24, 24)]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("W/m²", "W m-2"),
        ("W m**-2", "W m^-2"),
        ("mm/day", "mm d-1"),
        ("kg m⁻² s⁻¹", "kg/m^2/s"),
        ("°C", "celsius"),
        ("Gt CO2", "GtCO2"),
        ("GtCH4/yr", "Gt CH4 year-1"),
    ],
)
def test_spellings_of_one_unit(a, b):
    assert same_units(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [("K", "degC"), ("mm/day", "mm"), ("kg m-2 s-1", "kg m-2"), ("GtC", "GtCO2"), ("ppm", "GtCO2"), ("", "K")],
)
def test_spellings_of_different_units(a, b):
    assert not same_units(a, b)


def test_conversions_are_right():
    scale, offset = CONVERSIONS["degC", "K"]
    assert 25 * scale + offset == 298.15
    assert CONVERSIONS["kg m-2 s-1", "mm/day"] == (86400.0, 0.0)
    assert CONVERSIONS["m s-1", "mm/day"][0] == pytest.approx(86400 * 1000)
    assert CONVERSIONS["GtC", "GtCO2"][0] == pytest.approx(3.667, abs=1e-3)


def test_a_card_that_was_edited_is_the_one_of_before(tmp_path):
    """Cards are parsed once for each text."""
    path, text = tmp_path / "mine.toml", shipped("data_cards", "demo.toml").read_text(encoding="utf-8")
    for name in ("mine", "ours"):
        path.write_text(text.replace('name = "demo"', f'name = "{name}"'), encoding="utf-8")
        assert load_card(path).name == name


def test_a_card_that_one_caller_changed_is_every_callers():
    load_card("demo").scenarios.append("mine")
    assert "mine" not in load_card("demo").scenarios
