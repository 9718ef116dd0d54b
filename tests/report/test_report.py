"""Reports with pictures of another training, of other data or in another scale, and folders that are not theirs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from emukit.errors import EmukitError, RunError
from emukit.files import write_text
from emukit.progress import Reporter
from emukit.recipes.load import load_recipe
from emukit.report import content, run_figures, site
from emukit.report.plot_data import collect, distribution, error_rows
from emukit.report.site import MANIFEST, collect_places, named_means, study_names, to_draw, write_report
from emukit.runs.run import read_run, train_run
from tests.cli.conftest import TINY
from tests.coded import warming_archive
from tests.report import sites
from tests.report.sites import study

QUIET = Reporter(quiet=True)
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module", autouse=True)
def quick():
    """No time is spent on drawing."""
    with pytest.MonkeyPatch.context() as patch:
        sites.leave_blank(patch)
        yield


@pytest.fixture(scope="module")
def archive():
    """A climate of three members."""
    return warming_archive()


@pytest.fixture(scope="module")
def trained(archive, tmp_path_factory):
    """Runs: a line, one of an evil name, and a network."""
    runs = tmp_path_factory.mktemp("trained")
    words = [w.removeprefix("--set=") for w in TINY]
    train_run(archive, load_recipe("linear"), runs / "line", protocol="k360", reporter=QUIET)
    train_run(
        archive, load_recipe("linear", assignments=["model.ridge=1e9"]), runs / EVIL, protocol="k360", reporter=QUIET
    )
    train_run(archive, load_recipe("cnn-gru", assignments=words), runs / "net", protocol="k360", reporter=QUIET)
    return runs


@pytest.fixture(scope="module")
def drawn(archive, trained, tmp_path_factory):
    """The same after a report, whose pictures they keep; and the report."""
    out = tmp_path_factory.mktemp("drawn") / "report"
    written = write_report([trained], out, lambda run: archive, QUIET, published=False, overwrite=True)
    return trained, out, written


@pytest.fixture
def runs(drawn, tmp_path):
    """A copy of the runs with the pictures they keep, to damage."""
    return Path(shutil.copytree(drawn[0], tmp_path / "runs"))


def unopened(run):
    raise AssertionError(f"the data of {run.folder} were opened")


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def page(out, name):
    (path,) = (p for p in (out / "entries").glob("*.html") if p.name.startswith(name))
    return path.read_text(encoding="utf-8")


def test_report_is_whole_and_the_next_draws_nothing(drawn, archive, monkeypatch, tmp_path):
    runs, out, written = drawn
    files = contents(out)
    assert (written.entries, written.studies, list(written.left_out)) == (3, 0, [])
    assert written.size == pytest.approx(sum(map(len, files.values())), rel=0.01)
    assert set(json.loads(files[MANIFEST])["files"]) == set(files) - {MANIFEST}
    for entry in (out / "entries").iterdir():
        kept = {p.stem for p in (out / "pictures" / entry.stem).iterdir()}
        assert {"maps", "zonal", "years", "seasons", "rain"} <= kept
        assert ({"learning", "terms"} <= kept) == entry.name.startswith("net")
    assert len([f for f in files if f.endswith("another_run.webp")]) == 1
    monkeypatch.setattr(run_figures, "write_webp", lambda *a, **k: pytest.fail("drawn again"))
    again = write_report([runs], tmp_path / "again", unopened, QUIET, published=False, overwrite=True)
    assert again.entries == 3
    changed = {f for f, content in contents(tmp_path / "again").items() if content != files[f]}
    # Pages say when they were written.
    assert all(f.endswith((".html", MANIFEST)) for f in changed)


def pictured(out):
    return {p.name.split("-")[0] for p in (out / "pictures").glob("*") if (p / "maps.webp").exists()}


def test_pictures_are_of_the_best_runs_and_of_those_that_are_named(runs, archive, tmp_path):
    scores = {r.folder: r.rows[0].score for r in collect_places([runs]).sources}
    best, worst = min(scores, key=scores.get), max(scores, key=scores.get)
    out = tmp_path / "r"
    written = write_report([runs], out, lambda run: archive, QUIET, published=False, draw=1)
    assert written.entries == 3
    assert pictured(out) == {best.name.split("-")[0]}
    (why,) = written.undrawn
    assert len(written.undrawn[why]) == 2
    assert "--draw N draws the best N" in why
    assert not any((out / "pictures").glob("net*")) or best.name == "net"
    # The worst is named: it has pictures without a place among the best.
    named = write_report([worst, runs], tmp_path / "n", lambda run: archive, QUIET, published=False, draw=1)
    assert pictured(tmp_path / "n") == {best.name.split("-")[0], worst.name.split("-")[0]}
    assert sum(map(len, named.undrawn.values())) == 1
    assert not write_report([runs], tmp_path / "a", lambda run: archive, QUIET, published=False, draw=3).undrawn


def test_a_run_without_a_score_is_not_said_to_be_worse_than_others(runs, archive, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(runs, copied)
    shutil.rmtree(copied / "net" / "scores")
    written = write_report([copied], tmp_path / "r", lambda run: archive, QUIET, published=False, draw=0)
    assert {why for why, names in written.undrawn.items() if "net" in names} == {"it has no score here"}


def test_every_split_has_its_best_drawn_before_the_second_of_any(runs):
    found = collect_places([runs])
    a, b, c = found.sources
    for source, split, score in ((a, "x", 0.1), (b, "x", 0.2), (c, "y", 9.0)):
        own = replace(source.rows[0], split=split, score=score)
        object.__setattr__(source, "rows", [own, *source.rows[1:]])
    assert to_draw(found, 2) == {a.folder, c.folder}
    assert to_draw(found, None) == {a.folder, b.folder, c.folder}
    assert to_draw(found, 0) == set()


def test_kept_errors_are_those_of_the_scored_months_and_member(drawn, archive):
    runs, _, _ = drawn
    run = read_run(runs / "line")
    kept = run_figures.run_figures_of(run, "validation", run.folder / "report", lambda: pytest.fail("opened"))
    span = run.split(archive).scored["validation"][0]
    shown = collect(run.emulator(archive), archive, span)
    for row, field, other in zip(error_rows(shown), kept.fields.values(), kept.ensemble_member.values(), strict=True):
        np.testing.assert_allclose(field.error, row.panels[0].error, atol=1e-4)
        np.testing.assert_allclose(other.error, row.panels[1].error, atol=1e-4)
        assert row.panels[0].title.endswith(field.numbers)
        np.testing.assert_allclose(field.members[0], row.panels[1].error.mean(1), atol=1e-4)
    assert list(kept.fields) == ["tas.mean", "tas.std", "pr.mean", "pr.std"]
    scores = json.loads((run.folder / "scores" / "validation.json").read_text())
    assert kept.fields["tas.mean"].numbers.startswith(f"RMSE {scores['tas']['time_mean_rmse']:.3f},")
    assert kept.fields["pr.std"].numbers.startswith(f"MAE {scores['pr']['time_stddev_mae']:.3f},")


def test_distribution_counts_all_months_and_cells_by_area(archive, trained):
    run = read_run(trained / "line")
    shown = collect(run.emulator(archive), archive, run.split(archive).scored["validation"][0])
    curves = distribution(shown, "pr")
    width = np.log(curves.x[1] / curves.x[0])
    weights = archive.grid.weights
    for fields, density in zip(shown.members.values(), curves.members, strict=True):
        inside = (fields[:, 1] > 0.01) & (fields[:, 1] < 60)
        assert (density * width).sum() == pytest.approx((inside * weights).sum() / len(fields))
        above = (weights * (fields[:, 1] > 5)).sum() / len(fields)
        assert (density * width)[curves.x > 5].sum() == pytest.approx(above, abs=0.1)


def damage_about(folder):
    (folder / "about.json").write_text("{")


def damage_numbers(folder):
    path = folder / "numbers.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def lose_picture(folder):
    (folder / "years.webp").unlink()


def lose_key(folder):
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps({**about, "key": "0"}))


@pytest.mark.parametrize("damage", [damage_about, damage_numbers, lose_picture, lose_key])
def test_damaged_pictures_are_made_again(runs, archive, damage, tmp_path):
    damage(runs / "line" / "report" / "validation")
    opened = []
    write_report(
        [runs / "line"],
        tmp_path / "r",
        lambda run: opened.append(run) or archive,
        QUIET,
        published=False,
        overwrite=True,
    )
    assert len(opened) == 1
    write_report([runs / "line"], tmp_path / "r", unopened, QUIET, published=False, overwrite=True)


def test_another_training_in_the_same_folder_is_drawn_anew(runs):
    before = run_figures._key(read_run(runs / "line"), "validation")
    record = json.loads((runs / "line" / "run.json").read_text())
    record["sessions"][0]["started"] = "2031-01-01T00:00:00Z"
    (runs / "line" / "run.json").write_text(json.dumps(record))
    again = run_figures._key(read_run(runs / "line"), "validation")
    assert before != again
    assert run_figures._key(read_run(runs / "line"), "test") != again
    (runs / "line" / "emulator" / "emulator.json").write_text("{}")
    assert run_figures._key(read_run(runs / "line"), "validation") != again


def test_all_maps_are_in_one_scale_whichever_entries_there_are(runs, archive, tmp_path):
    def pages(place):
        found = collect_places([place])
        return site._site(found, to_draw(found, None), unopened, QUIET, tmp_path, False)

    everything = pages(runs)
    (map_of_line,) = (runs / "line" / "report" / "validation").glob("maps-*.webp")
    alone = site._site(
        (found := collect_places([runs / "line"])), to_draw(found, None), unopened, QUIET, tmp_path, False
    )
    assert alone.scales["tas.mean"] < everything.scales["tas.mean"]
    (again,) = (runs / "line" / "report" / "validation").glob("maps-*.webp")
    assert again.name != map_of_line.name
    errors = np.concatenate([e.errors.fields["tas.mean"].error for e in everything.entries])
    assert np.mean(np.abs(errors) <= everything.scales["tas.mean"]) >= 0.95
    assert np.abs(errors).max() > 0.5 * everything.scales["tas.mean"]


def test_damaged_runs_are_left_out_by_name_and_refused_when_asked_for(runs, archive, tmp_path):
    (runs / EVIL / "run.json").write_text("{")
    (runs / "net" / "emulator" / "emulator.json").write_text("{")
    shutil.rmtree(runs / "net" / "report")
    out = tmp_path / "r"
    written = write_report([runs], out, lambda run: archive, QUIET, published=False, overwrite=True)
    assert written.entries == 2
    assert len(written.left_out) == 1
    index = (out / "index.html").read_text()
    assert "Left out" in index
    assert "&lt;img src=x onerror=alert(1)&gt;" in index
    assert "<img src=x" not in index
    assert "no maps and curves" in page(out, "net")
    assert "learning.webp" in page(out, "net")
    with pytest.raises(RunError, match="damaged"):
        write_report([runs / EVIL], tmp_path / "o", lambda run: archive, QUIET)
    with pytest.raises(RunError, match="there is no"):
        write_report([runs / "nowhere"], tmp_path / "o", lambda run: archive, QUIET)
    assert not (tmp_path / "o").exists()


def test_damaged_log_leaves_out_the_curves_alone(runs, tmp_path):
    (runs / "net" / "metrics.jsonl").write_text('{"no": "epoch"}\n')
    write_report([runs], tmp_path / "r", unopened, QUIET, published=False, overwrite=True)
    net = page(tmp_path / "r", "net")
    assert "no learning curves" in net
    assert "maps.webp" in net


def test_unfinished_run_has_no_page_and_is_named_with_the_state_that_emukit_runs_says(runs, tmp_path):
    record = json.loads((runs / "net" / "run.json").read_text())
    (runs / "net" / "run.json").write_text(json.dumps({**record, "state": "training"}))
    written = write_report([runs], tmp_path / "r", unopened, QUIET, published=False, overwrite=True)
    assert written.entries == 2
    assert not [*(tmp_path / "r" / "entries").glob("net*")]
    (one,) = collect_places([runs]).unfinished
    assert (one.name, one.state) == ("net", "interrupted")
    assert one.command == read_run(runs / "net").go_on()
    assert f"--resume --out {runs / 'net'}" in one.command
    index = (tmp_path / "r" / "index.html").read_text()
    assert "<strong>net</strong>: interrupted" in index
    assert "2 entries" in index
    # Alone it is not a leaderboard, and no error.
    assert (
        write_report([runs / "net"], tmp_path / "alone", unopened, QUIET, published=False, overwrite=True).entries == 0
    )
    assert "emukit report</h1>" in (tmp_path / "alone" / "index.html").read_text()


def test_pictures_of_other_data_are_not_drawn(runs, tmp_path):
    shutil.rmtree(runs / "line" / "report")
    other = warming_archive(seed=5)
    write_report([runs / "line"], tmp_path / "r", lambda run: other, QUIET, published=False, overwrite=True)
    assert "the data are not those it was trained on" in page(tmp_path / "r", "line")
    assert not (runs / "line" / "report").exists()


def test_runs_that_cannot_be_written_keep_nothing(runs, archive, tmp_path, monkeypatch):
    shutil.rmtree(runs / "line" / "report")
    monkeypatch.setattr(site.os, "access", lambda path, mode: not Path(path).is_relative_to(runs))
    write_report([runs / "line"], tmp_path / "r", lambda run: archive, QUIET, published=False, overwrite=True)
    assert not (runs / "line" / "report").exists()
    assert "maps.webp" in page(tmp_path / "r", "line")


def test_folders_of_others_are_refused_and_own_ones_replaced(runs, tmp_path):
    out = tmp_path / "r"
    write_report([runs], out, unopened, QUIET, published=False, overwrite=True)
    entry = next((out / "entries").glob("net*"))
    write_report([runs / "line"], out, unopened, QUIET, published=False, overwrite=True)
    assert not entry.exists()
    with pytest.raises(EmukitError, match="--overwrite replaces it"):
        write_report([runs], out, unopened, QUIET, published=False)
    (out / "notes.txt").write_text("mine")
    before = contents(out)
    with pytest.raises(EmukitError, match="notes"):
        write_report([runs], out, unopened, QUIET, published=False, overwrite=True)
    assert contents(out) == before
    with pytest.raises(EmukitError, match="is not a report"):
        write_report([runs], runs / "line", unopened, QUIET, published=False, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(EmukitError, match="a file"):
        write_report([runs], tmp_path / "file", unopened, QUIET, published=False, overwrite=True)
    (out / "notes.txt").unlink()
    (out / MANIFEST).write_text('{"files": 3}')
    with pytest.raises(EmukitError, match="is not a report"):
        write_report([runs], out, unopened, QUIET, published=False, overwrite=True)
    (tmp_path / "empty").mkdir()
    assert write_report([runs], tmp_path / "empty", unopened, QUIET, published=False, overwrite=True).entries == 3


def test_failure_leaves_the_report_as_it_was(runs, tmp_path, monkeypatch):
    out = tmp_path / "r"
    write_report([runs / "line"], out, unopened, QUIET, published=False, overwrite=True)
    before = contents(out)

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(site.shutil, "copyfile", full)
    with pytest.raises(EmukitError, match="cannot write"):
        write_report([runs], out, unopened, QUIET, published=False, overwrite=True)
    assert contents(out) == before
    assert {p.name for p in tmp_path.iterdir()} == {"runs", "r"}


def test_study_brings_its_runs_and_names_those_that_are_gone(runs, tmp_path):
    made = study("../runs/line")
    gone = made.variants[0].runs[0].model_copy(update={"folder": "runs/gone"})
    base = made.variants[0].model_copy(update={"runs": [*made.variants[0].runs, gone]})
    made = made.model_copy(update={"variants": [base, *made.variants[1:]]})
    folder = tmp_path / "study"
    write_text(folder / "study.json", made.model_dump_json())
    out = tmp_path / "r"
    written = write_report([folder], out, unopened, QUIET, published=False, overwrite=True)
    assert (written.entries, written.studies) == (1, 1)
    assert "runs/gone of the study loss-weights is no longer there" in written.left_out[0]
    (text,) = (p.read_text() for p in (out / "studies").iterdir())
    assert f"../entries/{next((out / 'entries').iterdir()).name}" in text
    assert "/0-intervals.webp" in text
    assert "/0-coordinates.webp" in text
    alone = write_report(
        [folder], tmp_path / "alone", unopened, QUIET, published=False, overwrite=True, study_runs=False
    )
    assert (alone.entries, alone.studies, alone.left_out) == (0, 1, [])
    (text,) = (p.read_text() for p in (tmp_path / "alone" / "studies").iterdir())
    assert "entries/" not in text
    index = (tmp_path / "alone" / "index.html").read_text()
    assert "<form" not in index
    assert "<script" not in index
    # Named twice, a run is there once.
    assert write_report([folder, runs], out, unopened, QUIET, published=False, overwrite=True).entries == 3
    write_text(folder / "study.json", "{")
    with pytest.raises(RunError, match="damaged"):
        write_report([folder], out, unopened, QUIET, overwrite=True)
    below = write_report([tmp_path, runs], out, unopened, QUIET, published=False, overwrite=True)
    assert "study.json is damaged" in below.left_out[0]


def test_runs_of_a_study_are_called_what_they_are_there_and_others_by_their_folder(runs, tmp_path):
    write_text(tmp_path / "study" / "study.json", study("../runs/line").model_dump_json())
    write_text(tmp_path / "later" / "study.json", study("../runs/line", name="later").model_dump_json())
    out = tmp_path / "r"
    write_report([tmp_path / "study", tmp_path / "later", runs], out, unopened, QUIET, published=False, overwrite=True)
    line = page(out, "line")
    assert "<h1>loss-weights: mse, seed 0</h1>" in line
    assert "in the folder line" in line
    assert "later</a>: mse, seed 0" in line
    index = (out / "index.html").read_text()
    assert ">loss-weights: mse, seed 0</a>" in index
    assert ">net</a>" in index
    assert '"name":"loss-weights: mse, seed 0"' in (out / "assets" / "entries.js").read_text()


def test_protocols_are_named_where_a_study_has_several_and_means_over_them_have_one_name(tmp_path):
    made = study("runs/a")
    run = made.variants[0].runs[0]
    runs = [run.model_copy(update={"protocol": f"loso:{s}", "folder": f"runs/{s}"}) for s in ("ssp126", "ssp585")]
    made = made.model_copy(update={"variants": [made.variants[0].model_copy(update={"runs": runs})]})
    names = study_names([(tmp_path, made)])
    assert names[(tmp_path / "runs" / "ssp126").resolve()] == "loss-weights: mse, loso:ssp126, seed 0"
    rows = [sites.row("ssp126 + ssp585", 0.5), sites.row("ssp126", 0.5), sites.row("x", 1.0, "reference")]
    mean, lone, floor = named_means(rows, names)
    assert mean.name == "loss-weights: mse, loso:all, seed 0"
    assert (lone.name, floor.name) == ("ssp126", "x")


def test_variant_whose_runs_are_the_base_s_is_not_drawn_over_it(tmp_path, monkeypatch):
    made = study("runs/a")
    twin = made.variants[2].model_copy(update={"runs": made.variants[0].runs})
    made = made.model_copy(update={"variants": [*made.variants[:2], twin, made.variants[3]]})
    assert made.same_as_base == ["same"]
    drawn = []
    for name in ("draw_intervals", "draw_coordinates"):
        monkeypatch.setattr(content, name, lambda variants, *a: drawn.append(set(variants)) or Figure((1, 1)))
    shown = content.study_page(tmp_path, made, {}, tmp_path).pictures["k360", "validation"]
    assert drawn == [{sites.EVIL}, {"mse", sites.EVIL}]
    assert all(p.caption.endswith("Not drawn, for their runs are the base's: same.") for p in shown)


def test_page_says_what_the_record_says(drawn):
    run = read_run(drawn[0] / "net")
    source = next(s for s in collect_places([drawn[0]]).sources if s.run and s.run.folder.name == "net")
    entry = content.run_entry(run, source)
    assert entry.facts["parameters"] == f"{run.record.parameters:,}"
    assert entry.facts["epochs"].startswith("2, the best ")
    assert entry.provenance["data digest"] == run.record.data.digest
    assert json.loads(entry.config) == run.record.recipe
    assert entry.sessions[0]["versions"].startswith("python 3.")
    final = run.record.identity.model_copy(update={"final": "f" * 64})
    refitted = replace(run, record=run.record.model_copy(update={"identity": final, "seconds": 9000.0}))
    shown = content.run_entry(refitted, source)
    assert shown.provenance["selected by the run"] == "f" * 64
    assert shown.facts["time"] == "2.5 h"


def test_a_difference_that_nothing_says_how_sure_it_is_of_has_a_page(tmp_path):
    """One seed on one year, as `emukit ablate` writes it."""
    values = json.loads(study("../runs/line").model_dump_json())
    for row in values["results"][0]["rows"]:
        for one in (row["difference"] or {}).values():
            one["low"] = one["high"] = None
    folder = tmp_path / "study"
    write_text(folder / "study.json", json.dumps(values))
    out = tmp_path / "out"
    write_report([folder], out, unopened, QUIET, published=False, overwrite=True)
    (page,) = (out / "studies").glob("*.html")
    assert "0.1000" in page.read_text(encoding="utf-8")


def test_what_is_not_the_report_s_stays(runs, tmp_path, monkeypatch):
    out = tmp_path / "r"
    write_report([runs], out, unopened, QUIET, published=False, overwrite=True)
    for plant in (
        lambda: (out / "mine").mkdir(),
        lambda: (out / "entries" / "link").symlink_to(runs, target_is_directory=True),
    ):
        plant()
        with pytest.raises(EmukitError, match="is not a report"):
            write_report([runs], out, unopened, QUIET, published=False, overwrite=True)
        (out / "mine").rmdir() if (out / "mine").exists() else (out / "entries" / "link").unlink()
    link = tmp_path / "link"
    link.symlink_to(out, target_is_directory=True)
    write_report([runs], link, unopened, QUIET, published=False, overwrite=True)
    assert link.is_symlink()
    assert {p.name for p in tmp_path.iterdir()} >= {"link", "r"}
    assert not [*tmp_path.glob(".*.part")]
    monkeypatch.chdir(out)
    with pytest.raises(EmukitError, match="cannot be replaced"):
        write_report([runs], Path(), unopened, QUIET, published=False, overwrite=True)
