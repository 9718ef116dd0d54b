"""Two torchrun agents, as on two machines, that do not meet or train another network than one process does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from emukit.data.store import open_store
from emukit.progress import silent_reporter
from emukit.recipes.load import load_recipe
from emukit.runs.run import train_run
from tests.cli.conftest import TINY
from tests.parallel.sockets import Address, listeners
from tests.parallel.test_launch import free_port
from tests.parallel.test_processes import ROOT, same_training

SETTINGS = [*(word.removeprefix("--set=") for word in TINY), "training.epochs=1"]


def agent(rank: int, port: int, folder: Path, store: Path) -> subprocess.Popen[str]:
    """As on a cluster, each with one process; both write into the same run folder."""
    place = ["--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1", "--local-addr", "localhost"]
    rendezvous = ["--master-addr", "localhost", "--master-port", str(port)]
    words = ["train", "cnn-gru", "--data", str(store), "--out", "run", *(f"--set={s}" for s in SETTINGS)]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *place, *rendezvous, "-m", "emukit", *words],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def open_ports(agents: list[subprocess.Popen[str]]) -> list[tuple[Address, int]]:
    """Where both listen once they train: the network has its own listeners then, which the store has not."""
    while Path("/proc/net/tcp").exists() and all(a.poll() is None for a in agents):
        found = [socket for a in agents for socket in listeners(a.pid)]
        if len({port for _, port in found}) > 2:
            return found
        time.sleep(0.2)
    return []


def test_two_agents_train_another_network_than_one_process(tmp_path: Path, demo_store: Path) -> None:
    port = free_port()
    agents = [agent(rank, port, tmp_path, demo_store) for rank in (0, 1)]
    try:
        train_run(
            open_store(demo_store), load_recipe("cnn-gru", None, SETTINGS), tmp_path / "one", reporter=silent_reporter()
        )
        bound = open_ports(agents)
        said = [started.communicate(timeout=240)[0] for started in agents]
        assert [started.returncode for started in agents] == [0, 0], said
    finally:
        for started in agents:
            started.kill()
    if Path("/proc/net/tcp").exists():
        # The first agent's key-value store is all that listens on every interface; what the README says of it.
        assert {number for address, number in bound if address.is_unspecified} == {port}
    assert sum("validation" in words for words in said) == 1, "both tell, or none does"
    (session,) = json.loads((tmp_path / "run" / "run.json").read_text())["sessions"]
    assert session["machine"]["processes"] == 2
    same_training(tmp_path / "one", tmp_path / "run")
