"""Networks against themselves, month by month: what segments save in training and in prediction.

Invariant: the reference is the same network with the same weights, run over each window of H frames on its own, as a
plain data set of windows has it; in evaluation both give the same fields. What is timed runs on a made-up climate of
the competition's size, so that no store is needed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from benchmarks import Figure, Work, compare, measure
from emukit.data.archive import Archive, Scenario
from emukit.data.demo import DemoClimate
from emukit.data.frames import FrameEncoder
from emukit.data.split import Span
from emukit.data.store import archive_from_dataset
from emukit.data.targets import TargetNormalizer
from emukit.emulators.neural import NeuralEmulator
from emukit.errors import EmukitError, RecipeError
from emukit.models.registry import NETWORKS, build_network
from emukit.recipes.load import load_recipe
from emukit.recipes.schema import NetworkRecipe

# The network that everyone knows, and the one as large as the competition's largest; the others are defaults.
STARTER = "simple-cnn"
PUBLISHED = "cnn-gru-published"

# Target months of a training step: the batch of the competition's third place.
TRAIN_MONTHS = 32
# A scenario of the competition's store: 2015-01 to 2100-01.
SCENARIO_MONTHS = 1021
# Months that the reference predicts; its time is scaled up to the scenario's.
PART_MONTHS = 64

FASTER = 6.0
PREDICTION_SECONDS = 10.0
AGREEMENT = 1e-5


@dataclass(frozen=True)
class Job:
    """What a measuring process does with a network; it travels on the command line.

    Attributes:
        model: Name in the registry.
        settings: ``a.b=c`` words laid over its recipe.
        device: Where it runs.
        months: Target months.
        part: Months that stand for them where all would take too long.
        grid: (Y, X).
        years: Length of the scenarios.
        precision: See `benchmarks.device`.
        length: Months of a segment.
    """

    model: str
    settings: tuple[str, ...] = ()
    device: str = "cpu"
    months: int = SCENARIO_MONTHS
    part: int = PART_MONTHS
    grid: tuple[int, int] = (48, 72)
    years: int = 85
    precision: str = "fp32"
    length: int = 1

    @property
    def words(self) -> tuple[str]:
        """As an argument of a measuring process."""
        return (json.dumps(asdict(self)),)

    @property
    def label(self) -> str:
        """Network and settings, for people."""
        return " ".join((self.model, *self.settings))


def read_job(words: str) -> Job:
    """The inverse of `Job.words`."""
    values = json.loads(words)
    return Job(**values | {"settings": tuple(values["settings"]), "grid": tuple(values["grid"])})


def default_networks() -> tuple[str, ...]:
    """The networks whose defaults are made for two processor cores."""
    return tuple(name for name in NETWORKS if name not in (STARTER, PUBLISHED))


def bench_segments(jobs: Sequence[Job], runs: int) -> list[Figure]:
    """A training step of consecutive months, and the prediction of a scenario, against window by window.

    Raises:
        EmukitError: The two arrangements do not give the same fields.
    """
    figures = []
    for job in jobs:
        few = replace(job, months=min(TRAIN_MONTHS, job.months), years=4)
        difference = measure(f"{__name__}:prepare_difference", few.words).answer
        if not difference < AGREEMENT:
            raise EmukitError(
                f"{job.label} does not predict from segments what it predicts window by window",
                found=f"fields that differ by {difference:.2g} of their largest value",
                expected=f"less than {AGREEMENT:g}",
            )
        name = f"forward and backward of {few.months} months, {job.label}"
        work, plain = f"{__name__}:prepare_train", f"{__name__}:prepare_train_by_window"
        figures.append(compare(name, work, plain, few.words, runs=runs, faster=FASTER))
        figures.append(_prediction(job, runs, faster=FASTER))
    return figures


def bench_prediction(jobs: Sequence[Job], runs: int) -> list[Figure]:
    """A whole scenario from forcings to fields in physical units, against window by window."""
    return [_prediction(job, runs, seconds=PREDICTION_SECONDS) for job in jobs]


def _prediction(job: Job, runs: int, *, faster: float = 0.0, seconds: float = float("inf")) -> Figure:
    name = f"predict {job.months} months, {job.label} (reference: {job.part} of them, scaled up)"
    work, plain = f"{__name__}:prepare_predict", f"{__name__}:prepare_predict_by_window"
    scale = job.months / job.part
    figure = compare(
        name, work, plain, job.words, runs=runs, faster=faster, seconds=seconds, scale=scale, tolerance=AGREEMENT
    )
    return replace(figure, name=f"{name}: {1000 * figure.value / (job.months / 12):.1f} ms a year")


class PerWindow(nn.Module):
    """A network that is given each window as a segment of one month, (S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""

    def __init__(self, network: nn.Module, history: int) -> None:
        super().__init__()
        self.network = network
        self.history = history

    def forward(self, frames: Tensor) -> Tensor:
        windows = frames.unfold(1, self.history, 1).movedim(-1, 2)
        fields: Tensor = self.network(windows.flatten(0, 1))
        return fields.reshape(*windows.shape[:2], *fields.shape[2:])


def prepare_difference(words: str) -> Work:
    """Both arrangements in evaluation; the answer is their largest difference over the largest value."""
    emulator, archive = untrained(read_job(words))
    frames = consecutive_frames(emulator, archive, read_job(words).months)
    network = emulator.network.eval()

    def work() -> float:
        with torch.inference_mode():
            ours, plain = network(frames), PerWindow(network, emulator.encoder.settings.window.history)(frames)
            return float((ours - plain).abs().max() / plain.abs().max())

    return work


def prepare_train(words: str) -> Work:
    """Forward and backward of a segment; the answer is the number of its months."""
    return _training_step(read_job(words), by_window=False)


def prepare_train_by_window(words: str) -> Work:
    """The same months, one window each."""
    return _training_step(read_job(words), by_window=True)


def prepare_predict(words: str) -> Work:
    """A scenario by the emulator; the answer is the mean of the part's squares."""
    return _predict(read_job(words), by_window=False)


def prepare_predict_by_window(words: str) -> Work:
    """The part by the same emulator, one window a month."""
    return _predict(read_job(words), by_window=True)


def untrained(job: Job) -> tuple[NeuralEmulator, Archive]:
    """An emulator with fresh weights, the same for the same job, and the climate it stands on.

    Raises:
        RecipeError: There is no such network, or its settings are wrong.
    """
    # Both sides in true float32: cuDNN rounds convolutions to TF32 unless it is told not to.
    torch.backends.cudnn.allow_tf32 = False
    recipe = network_recipe(job)
    archive = made_up_archive(job)
    # What the statistics are does not matter here, so a decade of one scenario is enough to fit them on.
    months = Span("ssp126", 0, min(120, len(archive["ssp126"])), (0,))
    encoder = FrameEncoder.fit(archive, [months], recipe.inputs)
    normalizer = TargetNormalizer.fit(archive, [months], {v: recipe.targets.of(v) for v in archive.variables})
    torch.manual_seed(0)
    network = build_network(
        recipe.emulator,
        in_channels=len(encoder.channels),
        variables=len(archive.variables),
        grid=archive.grid.shape,
        history=recipe.inputs.window.history,
        options=recipe.options,
    ).to(job.device)
    return NeuralEmulator(archive.domain, recipe.emulator, recipe.options, network, encoder, normalizer), archive


def made_up_archive(job: Job) -> Archive:
    """The demo climate with one member, as long and as fine as the job says."""
    climate = DemoClimate(lat_cells=job.grid[0], lon_cells=job.grid[1], years=job.years, members=1)
    return archive_from_dataset(climate.dataset(), source="demo")


def network_recipe(job: Job) -> NetworkRecipe:
    """The recipe of a job's network.

    Raises:
        RecipeError: It is not a network, or its settings are wrong.
    """
    recipe = load_recipe(job.model, None, job.settings)
    if not isinstance(recipe, NetworkRecipe):
        raise RecipeError(f"{job.model} is not a network", expected=", ".join(NETWORKS))
    return recipe


def channels_of(recipe: NetworkRecipe, archive: Archive, spans: Sequence[Span]) -> int:
    """C, the channels of a frame, of a recipe on a climate.

    Raises:
        RecipeError: A static field is not there, or is on another grid.
        ProtocolError: A forcing is not in the climate.
    """
    return len(FrameEncoder.fit(archive, spans, recipe.inputs).channels)


def consecutive_frames(emulator: NeuralEmulator, archive: Archive, months: int) -> Tensor:
    """The frames of the last months of a scenario, (1, L+H-1, C, Y, X)."""
    scenario = archive["ssp126"]
    positions = emulator.encoder.settings.window.frames(len(scenario) - months, months, len(scenario), scenario.time)
    encoded = emulator.encoder.encode(scenario, emulator.device)
    return emulator.encoder.gather(encoded, torch.from_numpy(positions).to(emulator.device))[None]


def part_of(scenario: Scenario, months: int) -> Scenario:
    """The forcings of a scenario's first months."""
    forcings = {name: values[:months] for name, values in scenario.forcings.items()}
    return Scenario(scenario.name, scenario.time[:months], forcings)


def wait(device: str) -> None:
    """Until the device has done what it was asked to."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _training_step(job: Job, *, by_window: bool) -> Work:
    emulator, archive = untrained(job)
    frames = consecutive_frames(emulator, archive, job.months)
    history = emulator.encoder.settings.window.history
    network = (PerWindow(emulator.network, history) if by_window else emulator.network).train()
    targets = torch.randn(1, job.months, len(emulator.variables), *job.grid, device=frames.device)

    def step(months: int) -> None:
        fields = network(frames[:, : months + history - 1])
        nn.functional.mse_loss(fields, targets[:, :months]).backward()  # type: ignore[no-untyped-call]
        wait(job.device)

    # Libraries load, threads start, and kernels are chosen for the sizes that are timed.
    step(job.months)
    network.zero_grad(set_to_none=True)

    def work() -> float:
        step(job.months)
        return float(job.months)

    return work


def _predict(job: Job, *, by_window: bool) -> Work:
    emulator, archive = untrained(job)
    if by_window:
        emulator.network = PerWindow(emulator.network, emulator.encoder.settings.window.history)
    scenario, months = archive["ssp126"], job.part if by_window else job.months
    first = emulator.first_month
    if by_window:
        # Its time is scaled up, and with it the encoding of the scenario: no month more than it predicts.
        scenario = part_of(scenario, max(first + months, 12))  # a year, which the lead-in may repeat
    emulator.predict_fields(scenario, first, first + 1)

    def work() -> float:
        fields = emulator.predict_fields(scenario, first, first + months)
        return float((fields[: job.part].astype("float64") ** 2).mean())

    return work
