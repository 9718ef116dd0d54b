"""Pages that run what a name holds, link to what is not there, ask a network, or show other numbers than they hold."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import PurePosixPath

import numpy as np
import pytest

from emukit.competitions.cse151b import cse151b
from emukit.errors import RunError
from emukit.report.pages import (
    ASSETS,
    HERE,
    WIDTH,
    Unfinished,
    entry_script,
    identifier,
    marks,
    render,
    site_script,
)
from emukit.studies.results import DIFFERENCE
from emukit.studies.study_file import read_study
from tests.report.sites import EVIL, SPLIT, row, site, study

PARTS = ("month", "mean", "std")
MEASURES = ("RMSE", "RMSE", "MAE")
HEADS = [f"{v} {x}{m}, {u}" for v, u in (("tas", "K"), ("pr", "mm/day")) for x, m in zip(PARTS, MEASURES, strict=True)]


class Page(HTMLParser):
    """Tags with their attributes, and the text of every cell."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.rows, self._cell = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data):
        if self._cell:
            self.rows[-1][-1] += data

    def all(self, tag, attribute):
        return [a[attribute] for t, a in self.tags if t == tag and attribute in a]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    made = site(tmp_path_factory.mktemp("site"))
    return made, dict(render(made))


def pages(files):
    return {name: Page(text) for name, text in files[1].items() if name.endswith(".html")}


def test_names_notes_and_reasons_are_text_on_every_page(files):
    for name, page in pages(files).items():
        scripts = [a for t, a in page.tags if t == "script"]
        assert all(set(a) == {"src"} for a in scripts), name
        assert not [t for t, _ in page.tags if t == "b"], name
        assert not [a for _, a in page.tags for k in a if k.startswith("on")], name
    index = pages(files)["index.html"]
    assert any(EVIL.strip() in cell for line in index.rows for cell in line)
    for name, text in files[1].items():
        if name.startswith(("data/", "assets/entries")):
            assert not set("<>&\u2028") & set(text), name


def test_every_address_is_relative_and_leads_to_a_file_that_is_written(files):
    made, texts = files
    written = {*texts, *(p.file for e in made.entries for p in e.pictures)}
    seen = set()
    for name, page in pages(files).items():
        addresses = [*page.all("a", "href"), *page.all("link", "href"), *page.all("script", "src")]
        for address in [*addresses, *page.all("img", "src")]:
            if address == "data:,":
                continue
            assert not re.match(r"[a-z]+:|/", address), (name, address)
            path, _, fragment = address.partition("#")
            parts = []
            for part in (PurePosixPath(name).parent / path if path else PurePosixPath(name)).parts:
                parts = parts[:-1] if part == ".." else [*parts, part]
            target = "/".join(parts)
            assert target in written, (name, address)
            seen.add(target)
            if fragment and target != "compare.html":
                assert f'id="{fragment}"' in texts[target], (name, address)
    # Nothing is written that no page leads to, but what scripts ask for.
    assert written - seen == {"index.html"} - seen | {f"data/{e.id}.js" for e in made.entries}


def test_assets_ask_for_nothing_outside():
    for name in ASSETS:
        text = (HERE / "assets" / name).read_text(encoding="utf-8")
        assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttp", text), name


def test_identifiers_of_a_page_are_its_own_and_images_say_what_they_show(files):
    for name, page in pages(files).items():
        ids = [a["id"] for _, a in page.tags if "id" in a]
        assert len(ids) == len(set(ids)), name
        for _, a in page.tags:
            for word in a.get("aria-labelledby", "").split():
                assert word in ids, (name, word)
        labels = page.all("label", "for")
        controls = [a["id"] for t, a in page.tags if t in ("select", "input")]
        assert sorted(labels) == sorted(controls), name
        for attributes in (a for t, a in page.tags if t == "img"):
            assert attributes["alt"].startswith("Maps of")
            assert attributes["width"] == "20"


def test_leaderboard_ranks_within_the_same_months_and_lines_take_no_place(files):
    index = pages(files)["index.html"]
    lines = [[c.strip() for c in line] for line in index.rows]
    found = [(line[0], line[1], line[3]) for line in lines if line[2] not in ("kind", "")]
    assert found[:7] == [
        ("", "noise ceiling", "0.4000"),
        ("1", "best", "0.5000"),
        ("2", "place 1: a team", "0.6250"),
        ("3", EVIL.strip(), "0.7500"),
        ("4", "third", "1.2500"),
        ("", "climatology", "1.5000"),
        ("", "unscored", ""),
    ]
    assert found[7] == ("1", "other", "0.2500")
    best = next(line for line in lines if line[1] == "best")
    assert best[3:10] == ["0.5000", "0.500", "0.600", "0.700", "0.800", "0.900", "1.000"]
    team = next(line for line in lines if line[1] == "place 1: a team")
    assert team[-1].startswith("source: their report")


def test_pages_say_the_mean_over_members_and_what_trained(tmp_path):
    made = site(tmp_path)
    known = replace(made.entries[0].rows[0], members=(0.5, 0.8, 0.8), remark="validation months not in training")
    entry = replace(made.entries[0], rows=[known])
    rows = [known if r.key == known.key else r for r in made.rows]
    texts = dict(render(replace(made, rows=rows, entries=[entry, *made.entries[1:]])))
    table = Page(texts["index.html"]).rows
    heads = next(r for r in table if r[0] == "#")
    best = next(r for r in table if r[1].startswith("best"))
    assert "validation months not in training" in best[1]
    assert dict(zip(heads, best, strict=True))["mean over members"].strip() == "0.7000"
    assert dict(zip(heads, best, strict=True))["sd over members"].strip() == "0.1732"
    third = next(r for r in table if r[1].startswith("third"))
    assert dict(zip(heads, third, strict=True))["mean over members"].strip() == ""
    page = texts[f"entries/{entry.id}.html"]
    assert "Mean and standard deviation of the score with each member as truth: 0.7000 ± 0.1732." in page
    assert "Validation months not in training." in page
    # Other sets of months, of which nothing is known, have no such column.
    assert "over members" not in next(r for r in table if "#" in r and r is not heads)


def test_page_of_an_entry_shows_its_months_alone_with_lines_and_place(files):
    made, texts = files
    third = Page(texts[f"entries/{made.entries[2].id}.html"])
    names = [line[0] for line in third.rows[1:]]
    assert names == ["noise ceiling", "place 1: a team", "third", "climatology"]
    assert [a["class"].split() for t, a in third.tags if t == "tr" and "own" in a.get("class", "")] == [["run", "own"]]
    assert "place 4 of 4" in texts[f"entries/{made.entries[2].id}.html"]
    assert "nothing of third" in texts[f"entries/{made.entries[2].id}.html"]


def test_study_page_has_sentences_intervals_and_links_to_its_runs(files):
    made, texts = files
    name = f"studies/{made.studies[0].id}.html"
    page = Page(texts[name])
    line = next(r for r in page.rows if r[0] == EVIL and len(r) > 3)
    assert line[2] == "0.4000± 0.0100"
    assert line[-1] == "\N{MINUS SIGN}0.1000\N{MINUS SIGN}0.1500 to \N{MINUS SIGN}0.0500"
    assert next(r for r in page.rows if r[0] == "mse" and len(r) > 3)[-1] == "base"
    assert next(r for r in page.rows if r[0] == "waiting" and len(r) > 3)[1:] == ["0", *[""] * 8]
    assert "cores 2" in texts[name]
    assert "sentence of same" in texts[name]
    assert f"../entries/{made.entries[0].id}.html" in page.all("a", "href")
    # Settings are those of the base, and what differs from it.
    words = {r[0]: r[1:3] for r in page.rows if len(r) == 4}
    assert words["mse"] == ["recipe cnn-gruwindow = 12", "30"]
    assert words[EVIL] == ["recipe xloss.pr.dice = 1.0members 0,1", ""]
    assert words["same"] == ["", ""]


def test_runs_of_a_study_are_known_by_their_variant(files):
    made, texts = files
    address = f"studies/{made.studies[0].id}.html"
    entry = Page(texts[f"entries/{made.entries[0].id}.html"])
    assert f"../{address}" in entry.all("a", "href")
    assert "loss-weights</a>: mse, seed 0" in texts[f"entries/{made.entries[0].id}.html"]
    assert "In the study" not in texts[f"entries/{made.entries[1].id}.html"]
    best = next(r for r in Page(texts["index.html"]).rows if r[1] == "best")
    assert best[-1] == "loss-weights: mse"
    assert address in Page(texts["index.html"]).all("a", "href")


def test_a_colleague_is_told_units_lines_and_intervals(files):
    made, texts = files
    text = texts[f"studies/{made.studies[0].id}.html"]
    page = Page(text)
    heads = next(r for r in page.rows if r[:2] == ["variant", "seeds"])
    assert heads[2:] == ["score", *HEADS, DIFFERENCE]
    legend = text[text.index("<details") : text.index("</details>")]
    for words in ("Near-surface air temperature, in K", "mm/day", "no unit", "95 %", "seeds", "years"):
        assert words in legend
    for term in ("tas month", "pr mean", "tas std", "score", "reference: another run", "noise ceiling"):
        assert f"<dt>{term}</dt>" in legend
    assert any(r[0] == "reference: another run" for r in page.rows)


def test_an_end_that_is_not_zero_is_not_printed_as_zero_on_a_page(tmp_path):
    made = study()
    row = made.results[0].rows[1]
    score = row.difference["score"].model_copy(update={"mean": 0.01, "low": 0.00003, "high": 0.02})
    row = row.model_copy(update={"difference": {**row.difference, "score": score}})
    result = made.results[0].model_copy(update={"rows": [made.results[0].rows[0], row]})
    text = study_text(tmp_path, made.model_copy(update={"results": [result]}))
    assert "+0.00003 to +0.02000" in text


def test_errors_of_a_small_unit_are_not_printed_as_zero_on_any_page(tmp_path):
    """Three decimals of humidity in kg kg-1 tell no entry from another."""
    made, key = site(tmp_path), "pr.time_stddev_mae"
    rows = [replace(r, numbers={**r.numbers, key: r.numbers[key] / 1000} if r.numbers else {}) for r in made.rows]
    entry = replace(made.entries[0], rows=[r for r in rows if r.key == made.entries[0].rows[0].key])
    texts = dict(render(replace(made, rows=rows, entries=[entry, *made.entries[1:]])))
    for text in (texts["index.html"], texts[f"entries/{entry.id}.html"]):
        best = next(r for r in Page(text).rows if any(cell.startswith("best") for cell in r[:2]))
        assert f"{entry.rows[0].numbers[key]:.5f}" in best
    result = study().results[0]
    lines = [r.model_copy(update={"mean": {**r.mean, key: 0.00041}}) for r in result.rows[:2]]
    result = result.model_copy(update={"rows": lines, "floor": {**result.floor, key: 0.00137}})
    table = Page(study_text(tmp_path, study().model_copy(update={"results": [result]}))).rows
    assert next(r for r in table if r[0] == "reference: another run")[-2] == "0.00137"
    assert next(r for r in table if r[0] == EVIL and len(r) > 3)[-2].startswith("0.00041")


def test_search_ends_with_its_best_trial_and_the_command_that_trains_it(tmp_path):
    made = study()
    assert "The best trial" not in study_text(tmp_path, made)
    made = made.model_copy(update={"best": EVIL})
    # A command that cannot be trusted is not told.
    assert "The best trial" not in study_text(tmp_path, made)
    text = study_text(tmp_path, made, "emukit train cnn-gru --set 'a=<b>'")
    end = text[text.index("The best trial") :]
    assert "emukit train cnn-gru --set &#39;a=&lt;b&gt;&#39;</pre>" in end
    assert "<section" not in end


def study_text(folder, made, best_command=""):
    """The page of a study."""
    whole = site(folder)
    page = replace(whole.studies[0], study=made, best_command=best_command)
    return dict(render(replace(whole, studies=[page])))[f"studies/{page.id}.html"]


def test_published_results_of_other_months_are_folded_away_under_what_is_one_s_own(tmp_path):
    whole = site(tmp_path)
    text = dict(render(whole))["index.html"]
    assert "<details" not in text
    elsewhere = row("place 2: a team", 0.5, "published", split="cse151b 48x72 k360 test: elsewhere")
    text = dict(render(replace(whole, rows=[elsewhere, *whole.rows])))["index.html"]
    own, folded = text.split('<details class="others">')
    assert "place 2: a team" in folded.split("</details>")[0]
    assert "place 1: a team" in own
    assert "place 2: a team" not in own
    assert "0 of your own" not in text


def test_unfinished_runs_are_named_on_the_first_page_with_how_to_go_on(tmp_path):
    runs = [Unfinished(EVIL, "interrupted", "emukit train x --resume"), Unfinished("b", "training", "emukit train y")]
    text = dict(render(replace(site(tmp_path), unfinished=runs)))["index.html"]
    part = text[text.index("Not finished") :].split("</section>")[0]
    assert EVIL not in text
    assert "interrupted; to continue: <code>emukit train x --resume</code>" in part
    # What is being trained continues by itself.
    assert "train y" not in part
    assert "4 entries" in text


def test_folder_of_a_run_that_a_study_names_stays_in_sight(tmp_path):
    whole = site(tmp_path)
    known = replace(whole.entries[0], folder="cnn-gru-0123")
    texts = dict(render(replace(whole, entries=[known, *whole.entries[1:]])))
    best = next(r for r in Page(texts["index.html"]).rows if r[1] == "best")
    assert best[-1] == "loss-weights: msefolder cnn-gru-0123"
    assert "run in the folder cnn-gru-0123" in texts[f"entries/{known.id}.html"]


def test_errors_come_back_from_the_script_as_they_went_in(files):
    made, _ = files
    for one in made.entries:
        (call,) = re.findall(r"^emukit\.addErrors\((.*)\);\n$", entry_script(one))
        plain = json.loads(call)
        assert plain["lat"] == one.errors.grid.lat.tolist()
        for quantity, field in zip(plain["quantities"], (f.error for f in one.errors.fields.values()), strict=True):
            q = np.frombuffer(base64.b64decode(quantity["values"]), np.int8).astype(float)
            back = (np.sign(q) * quantity["largest"] * (q / 127) ** 2).reshape(field.shape)
            np.testing.assert_allclose(back, field, atol=0.008 * np.abs(field).max())
            assert np.abs(back).max() == pytest.approx(np.abs(field).max(), rel=1e-5)


def test_errors_that_are_all_zero_are_zero(files):
    one = files[0].entries[0]
    flat = {name: replace(f, error=np.zeros((4, 6))) for name, f in one.errors.fields.items()}
    still = replace(one, errors=replace(one.errors, fields=flat))
    assert base64.b64encode(bytes(24)).decode() in entry_script(still)


def test_only_entries_with_errors_can_be_compared(files):
    made = files[0]
    without = replace(made, entries=[replace(made.entries[0], errors=None), *made.entries[1:]])
    names = [e["name"] for e in json.loads(site_script(without)[len("emukit.start(") : -3])["entries"]]
    assert names == [EVIL, "third", "other"]
    alone = replace(made, entries=made.entries[:1])
    compare = dict(render(alone))["compare.html"]
    assert "Two entries with a prediction are needed" in compare
    assert "compare.js" not in compare


def test_identifiers_are_file_names_and_those_of_two_places_differ(tmp_path):
    for name in (EVIL, "../../etc/passwd", "", "...", "ä b", "x" * 300):
        made = identifier(name, tmp_path)
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*-[0-9a-f]{8}|[-_][A-Za-z0-9._-]*", made), made
        assert ".." not in made.split("-")[0]
        assert len(made) < 80
    assert identifier("run", tmp_path / "a") != identifier("run", tmp_path / "b")


def test_strip_is_linear_in_the_score_and_marks_what_is_beyond():
    rows = [row("best", 1.0), row("floor", 2.0, "reference"), row("failed", 9.0), row("limit", 0.5, "limit")]
    found = {m.name: m for m in marks(rows)}
    assert found["limit"].x < found["best"].x < found["floor"].x < found["failed"].x
    step = (found["best"].x - found["limit"].x) / 0.5
    assert found["floor"].x - found["best"].x == pytest.approx(step, abs=0.2)
    assert found["failed"].beyond
    assert not found["floor"].beyond
    assert found["failed"].x == pytest.approx(WIDTH - 14)
    assert marks(rows[:1]) == []
    alike = marks([row("a", 1.0), row("b", 1.0)])
    assert all(np.isfinite(m.x) for m in alike)


def test_damaged_studies_are_refused_with_what_is_wrong(tmp_path):
    plain = json.loads(study().model_dump_json())
    path = tmp_path / "study.json"

    def changed(**values):
        return {**plain["results"][0], "rows": [{**plain["results"][0]["rows"][0], **values}]}

    def run(folder):
        return {"protocol": "k360", "seed": 0, "folder": folder, "state": "finished"}

    for change, words in (
        ({"format": 2}, "format"),
        ({"variants": []}, "variants"),
        ({"results": [changed(variant="no")]}, "no"),
        ({"results": [changed(mean={"score": 1.0})]}, "without tas.monthly_rmse"),
        ({"results": [changed(difference={"pr.mean": {"mean": 0.1, "low": 0.0, "high": 0.2}})]}, "without score"),
        ({"results": [changed(sd=dict.fromkeys(("score", *cse151b().keys), 1e308))]}, "less than or equal"),
        ({"results": [{**plain["results"][0], "floor": {}}]}, "without score"),
        ({"name": "a\0b"}, "control characters"),
        ({"variants": [{"name": "mse", "runs": [run("a\0b")]}]}, "control characters"),
        ({"variants": [{"name": "mse", "runs": [run("a" * 300)]}]}, "longer than a path"),
    ):
        path.write_text(json.dumps({**plain, **change}))
        with pytest.raises(RunError, match=words):
            read_study(tmp_path)
    path.write_text("[" * 100_000)
    with pytest.raises(RunError, match="damaged"):
        read_study(tmp_path)
    path.write_text(json.dumps(plain)[:100])
    with pytest.raises(RunError, match="damaged"):
        read_study(tmp_path)
    path.write_text(json.dumps({**plain, "later": 1}))
    assert read_study(tmp_path).name == "loss-weights"
    with pytest.raises(RunError, match="cannot read"):
        read_study(tmp_path / "nowhere")


def test_split_of_an_entry_is_named_in_full_on_its_page(files):
    made, texts = files
    assert SPLIT in texts[f"entries/{made.entries[0].id}.html"]
