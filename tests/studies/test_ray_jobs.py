"""Jobs that are lost with a node of a Ray cluster, or run twice."""

import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from emukit.errors import EmukitError
from emukit.studies.jobs import Job, open_cluster

# Counts to twenty in a file, five numbers a second, and continues where the count stands; ends with who began it.
COUNT = """
import fcntl, os, pathlib, sys, time
parent = os.getppid()
here = pathlib.Path(sys.argv[1])
lock = (here / '.lock').open('w')
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
count = here / 'count'
done = len(count.read_text().split()) if count.exists() else 0
with (here / 'sessions').open('a') as f:
    f.write(os.environ['NODE'] + '\\n')
for number in range(done, 20):
    if os.getppid() != parent:
        sys.exit(143)
    with count.open('a') as f:
        f.write(f'{number}\\n')
    time.sleep(0.2)
(here / 'done').touch()
"""


@pytest.fixture(scope="module", autouse=True)
def _token():
    """Ray listens on every interface, and runs what it is sent: only by those who know this; read on its import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        yield


@contextmanager
def node(name, *words):
    """A node of a cluster, with a processor of its own."""
    environment = os.environ | {"NODE": name, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    command = [str(Path(sys.executable).with_name("ray")), "start", *words, "--num-cpus=1", "--block"]
    process = subprocess.Popen(
        [*command, "--object-store-memory=80000000", "--include-dashboard=false"]
        if "--head" in words
        else [*command, "--object-store-memory=80000000"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _kill(process)


def _kill(process):
    """Kill a node: everything that it started, at once."""
    for pid in [*_descendants(process.pid), process.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def _descendants(pid):
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [p for child in map(int, children) for p in (child, *_descendants(child))]


@pytest.fixture
def port():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _is_done(folder):
    return (folder / "done").exists()


def _sessions(folder):
    return (folder / "sessions").read_text().split() if (folder / "sessions").exists() else []


def _wait(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.filterwarnings("ignore")
def test_a_node_that_dies_loses_nothing_and_nothing_is_run_twice(tmp_path, monkeypatch, port):
    pytest.importorskip("ray", reason="Ray is not installed: NOT TESTED ON A CLUSTER")
    jobs = []
    for i in range(4):
        folder = tmp_path / str(i)
        folder.mkdir()
        code = COUNT if i < 3 else "raise SystemExit('error: it is broken')"
        jobs.append(Job((sys.executable, "-c", code, str(folder)), folder, tmp_path / f"{i}.log", _is_done))
    counted = [job.folder for job in jobs[:3]]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    began, ended, killed = [], {}, []
    with node("head", "--head", f"--port={port}", "--node-ip-address=127.0.0.1"):
        _wait(lambda: _listens(port))
        with node("second", f"--address=127.0.0.1:{port}") as second, open_cluster("ray") as cluster:
            _wait(lambda: cluster.ray.cluster_resources().get("CPU", 0) == 2)

            def look():
                there = [f for f in counted if _sessions(f)[-1:] == ["second"] and (f / "count").exists()]
                if not killed and any(len((f / "count").read_text().split()) > 3 for f in there):
                    killed.extend(there)
                    _kill(second)

            cluster.run_jobs(jobs, began=began.append, ended=lambda i, error: ended.update({i: error}), look=look)
    assert len(killed) == 1
    assert sorted(began) == [0, 1, 2, 3]
    assert ended == {0: "", 1: "", 2: "", 3: "error: it is broken"}
    for folder in counted:
        # The one that was lost went on where it stood; no other was started twice.
        assert _sessions(folder) == (["second", "head"] if folder in killed else _sessions(folder)[:1])
        assert (folder / "count").read_text().split() == [str(i) for i in range(20)]


def _listens(port):
    import socket

    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def test_an_address_that_is_none_is_told():
    with pytest.raises(EmukitError, match="cannot run on 'slurm'"), open_cluster("slurm"):
        pass


@pytest.mark.filterwarnings("ignore")
def test_no_cluster_is_told_at_once(monkeypatch, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: NOT TESTED ON A CLUSTER")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(EmukitError, match="there is no Ray cluster at ray"), open_cluster("ray"):
        pass
