"""Processes that stop others, outlive who started them, or write where another writes."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from emukit.files import exclusive
from emukit.studies import jobs
from emukit.studies.jobs import Job, run_jobs, slots

# Says that it is there, and ends when it is asked to, saying so.
PATIENT = """
import pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
def end(*_):
    (here / 'saved').touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, lambda *_: (here / 'ctrl-c').touch())
(here / 'there').touch()
time.sleep(60)
"""


def job(folder, code, done=lambda folder: False):
    folder.mkdir(parents=True, exist_ok=True)
    return Job((sys.executable, "-c", code, str(folder)), folder, folder.with_name(folder.name + ".log"), done)


def run_all(wanted, environments=({},), look=lambda: None):
    began, ended = [], {}
    run_jobs(
        wanted,
        environments=environments,
        began=began.append,
        ended=lambda i, error: ended.update({i: error}),
        look=look,
    )
    return began, ended


def test_a_failure_stops_no_other_and_its_words_are_kept(tmp_path):
    codes = [
        "print('fine')",
        "import sys; print('noise'); sys.exit('error: no such feature\\n  do:       fix it')",
        "import os; os.kill(os.getpid(), 9)",
        "import sys; sys.exit(3)",
    ]
    began, ended = run_all([job(tmp_path / str(i), code) for i, code in enumerate(codes)])
    assert began == [0, 1, 2, 3]
    assert ended[0] == ""
    assert ended[1] == "error: no such feature\n  do:       fix it"
    assert "killed by signal 9" in ended[2]
    assert ended[3] == "exit code 3, without a word"
    assert (tmp_path / "0.log").read_text().endswith("\nfine\n")
    # What another try said is no reason for this one's failure.
    assert run_all([job(tmp_path / "1", codes[3])])[1] == {0: "exit code 3, without a word"}


def test_what_does_not_save_in_time_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "GRACE_SECONDS", 0.2)
    folder = tmp_path / "stubborn"
    code = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
(pathlib.Path(sys.argv[1]) / 'pid.part').write_text(str(os.getpid()))
(pathlib.Path(sys.argv[1]) / 'pid.part').rename(pathlib.Path(sys.argv[1]) / 'pid')
time.sleep(60)
"""

    def look():
        if (folder / "pid").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all([job(folder, code)], look=look)
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "pid").read_text()), 0)


def test_no_two_at_a_time_have_one_place(tmp_path):
    code = """
import os, pathlib, sys, time
here = pathlib.Path(sys.argv[1]).parent / ('at' + os.environ['PLACE'])
here.mkdir()
time.sleep(0.3)
here.rmdir()
"""
    _, ended = run_all([job(tmp_path / str(i), code) for i in range(5)], [{"PLACE": "a"}, {"PLACE": "b"}])
    assert ended == dict.fromkeys(range(5), "")


def test_environments(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert slots(None, [], 8) == [{"OMP_NUM_THREADS": "1"}] * 8
    assert slots(2, [], 8) == [{"OMP_NUM_THREADS": "4"}] * 2
    assert slots(3, [], 2) == [{"OMP_NUM_THREADS": "1"}] * 3
    gpus = [s["CUDA_VISIBLE_DEVICES"] for s in slots(None, ["2", "5"], 8)]
    assert gpus == ["2", "5"]
    assert [s["CUDA_VISIBLE_DEVICES"] for s in slots(3, ["2", "5"], 8)] == ["2", "5", "2"]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert slots(2, [], 8) == [{}, {}]


def test_a_folder_that_another_process_holds_is_waited_for(tmp_path):
    """What a killed study left behind saves and ends; or another study does the work, and it is not done twice."""
    done, before = threading.Event(), time.monotonic()
    with ExitStack() as held:
        held.enter_context(exclusive(tmp_path / "a"))

        def look():
            if time.monotonic() - before > 1.0 and not done.is_set():
                done.set()
                held.close()

        began, ended = run_all(
            [job(tmp_path / "a", "raise SystemExit('twice')", lambda folder: done.is_set())], look=look
        )
    assert (began, ended) == ([], {0: ""})
    assert time.monotonic() - before > 1.0


def test_who_is_interrupted_ends_its_processes_and_they_save(tmp_path):
    wanted = [job(tmp_path / str(i), PATIENT) for i in range(3)]

    def look():
        if all((tmp_path / str(i) / "there").exists() for i in range(2)):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(wanted, [{}, {}], look)
    assert all((tmp_path / str(i) / "saved").exists() for i in range(2))
    assert not (tmp_path / "2" / "there").exists()


def test_ctrl_c_of_the_terminal_reaches_only_the_one_in_front(tmp_path):
    """The terminal tells the whole group; a training that is told twice does not save."""
    # A shell's background ignores Ctrl-C, and what it starts inherits that.
    code = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {str(Path.cwd())!r})
from pathlib import Path
from tests.studies.test_jobs import PATIENT, job, run_all
run_all([job(Path({str(tmp_path)!r}) / 'a', PATIENT)])
"""
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL, start_new_session=True) as front:
        try:
            for _ in range(600):
                if (tmp_path / "a" / "there").exists():
                    break
                time.sleep(0.1)
            os.killpg(front.pid, signal.SIGINT)
            assert front.wait(60) != 0
        finally:
            front.kill()
    assert (tmp_path / "a" / "saved").exists()
    assert not (tmp_path / "a" / "ctrl-c").exists()


def test_a_place_that_cannot_be_used_stops_no_other(tmp_path):
    (tmp_path / "taken").touch()
    (tmp_path / "log.log").mkdir()
    bad = Job((sys.executable, "-c", ""), tmp_path / "taken", tmp_path / "taken.log", lambda folder: False)
    good = job(tmp_path / "good", "import pathlib, sys; (pathlib.Path(sys.argv[1]) / 'there').touch()")
    _, ended = run_all([bad, job(tmp_path / "log", ""), good])
    assert "taken" in ended[0]
    assert "log" in ended[1]
    assert ended[2] == ""
    assert (tmp_path / "good" / "there").exists()


def test_what_another_process_did_meanwhile_is_no_failure(tmp_path):
    """It had the folder when this one wanted it, and has finished since."""
    done = "import pathlib, sys; (pathlib.Path(sys.argv[1]) / 'done').touch(); sys.exit('another process is writing')"
    _, ended = run_all([job(tmp_path / "a", done, lambda folder: (folder / "done").exists())])
    assert ended == {0: ""}
