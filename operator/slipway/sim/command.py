"""`slipway simulate`: what would have come of this traffic, with our decision and, if asked for, with rivals.

Its answers: 0; 1 with a sentence when a file cannot be read or written; 2 when the arguments are wrong.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from slipway.sim import picture, traces
from slipway.sim.models import ServiceModel
from slipway.sim.outcome import Outcome
from slipway.sim.progress import Progress, Watched
from slipway.sim.sweep import Point, Setting, ours, rivals
from slipway.sim.traces import Trace
from slipway.sim.world import Fault, Terms, replay

FAULTS = ("empty", "error", "stale", "half")
WIDTHS = (30, 10, 13, 8, 9, 10)
HEAD = ("policy", "in time %", "worst 5 min", "GPU h", "changes", "reversals")
EXAMPLES = """examples:
  slipway simulate --trace step --lead 60 --rivals
  slipway simulate --trace requests.txt --service 0.1 --slots 1 --latency 1

A trace is a text file with the number of requests of each second, one number
a line; an Azure LLM trace (CSV) or one of Mooncake (JSON lines); or the name of
a made-up one. What is not said of the model is as the trace's kind has it.
"""


Number = TypeVar("Number", int, float)


class Refused(Exception):
    """Arguments that contradict each other, or a file that is no use: the sentence for the user."""


def run(arguments: argparse.Namespace) -> int:
    """Exit code."""
    try:
        terms = _terms(arguments)
        trace = _trace(arguments)
    except (Refused, OSError, ValueError) as error:
        return _complain(f"cannot replay {arguments.trace}: {_told(error)}")
    settings = [ours(), *(rivals(arguments.uses) if arguments.rivals else [])]
    seconds = trace.times[-1]
    print(f"{trace.name}: {len(trace.times)} requests in {seconds:.0f} s, lead time {terms.lead_s:g} s")
    print(f"in time: {_objective(trace)}")
    print(_row(HEAD))
    progress = Progress(sys.stderr)
    found = [_one(trace, setting, terms, progress) for setting in settings]
    try:
        _draw(arguments, trace, terms, found)
    except OSError as error:
        return _complain(f"cannot draw: {_told(error)}; name a file in a folder that exists and may be written")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "What would have come of this traffic, with Slipway's decision and with those of others."
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--trace", required=True, help=f"a file, or one of {', '.join(traces.SYNTHETIC)}")
    parser.add_argument("--lead", type=_above_zero, default=180.0, help="seconds from launch to ready, median (180)")
    parser.add_argument("--min", type=_replicas, default=1, help="fewest replicas; 0: it may sleep (1)")
    parser.add_argument("--max", type=_replicas, default=64, help="most replicas (64)")
    parser.add_argument("--initial", type=_replicas, help="replicas at the start; absent: by the mean load")
    parser.add_argument("--seed", type=int, default=0, help="of load times and of traffic that is drawn (0)")
    model = parser.add_argument_group("the model, where the trace's own does not fit")
    model.add_argument("--service", type=_above_zero, help="seconds that a request takes alone in a replica")
    model.add_argument("--each", type=_not_below_zero, help="and how many more for each other one at work")
    model.add_argument("--slots", type=_slots, help="requests that a replica works on at once")
    objective = model.add_mutually_exclusive_group()
    objective.add_argument("--latency", type=_above_zero, help="objective: seconds to the answer, at most")
    objective.add_argument("--queue-time", type=_not_below_zero, help="objective: seconds to the begin, at most")
    faults = parser.add_argument_group("what goes wrong")
    faults.add_argument("--quota", type=_replicas, default=10_000, help="replicas that the cluster has room for")
    faults.add_argument("--crash-pct", type=_percent, default=0.0, help="launches that crash")
    faults.add_argument("--outage", choices=FAULTS, help="metrics that are not as they should be")
    faults.add_argument("--outage-at", type=_not_below_zero, default=1500.0, help="from this second (1500)")
    faults.add_argument("--outage-for", type=_above_zero, default=600.0, help="for so many seconds (600)")
    shown = parser.add_argument_group("what is shown")
    shown.add_argument("--rivals", action="store_true", help="HPA, KEDA, Knative and Ray Serve too")
    shown.add_argument(
        "--uses", type=_above_zero, nargs="+", default=[0.35, 0.5, 0.7], help="target utilisations of rivals"
    )
    shown.add_argument("--svg", type=Path, help="draw load and replicas over time into this file")
    shown.add_argument("--pareto", type=Path, help="draw all settings, requests in time over cost, into this file")


def _trace(arguments: argparse.Namespace) -> Trace:
    name, initial = arguments.trace, arguments.initial
    if name in traces.SYNTHETIC:
        trace = traces.SYNTHETIC[name](arguments.seed)
    elif not Path(name).exists():
        raise Refused(f"there is no such file, and it is none of {', '.join(traces.SYNTHETIC)}")
    else:
        trace = traces.load(Path(name), arguments.seed, initial)
    model = _model(arguments, trace.model)
    if initial is None:
        initial = trace.initial if model == trace.model else traces.initial(trace.times, trace.sizes, model)
    return dataclasses.replace(trace, model=model, initial=min(arguments.max, max(arguments.min, initial)))


def _model(arguments: argparse.Namespace, usual: ServiceModel) -> ServiceModel:
    """As the trace's kind has it, where the user says nothing."""
    model = usual
    if arguments.service is not None:
        # Alone or not, it takes as long: unless --each says otherwise.
        model = dataclasses.replace(model, base_s=arguments.service, each_s=0.0)
    if arguments.each is not None:
        model = dataclasses.replace(model, each_s=arguments.each)
    if arguments.slots is not None:
        model = dataclasses.replace(model, slots=arguments.slots)
    if arguments.latency is not None or arguments.queue_time is not None:
        model = dataclasses.replace(model, latency_s=arguments.latency, wait_s=arguments.queue_time)
    return model


def _terms(arguments: argparse.Namespace) -> Terms:
    if arguments.min > arguments.max:
        raise Refused(f"--min {arguments.min} is more than --max {arguments.max}")
    if arguments.pareto and not arguments.rivals:
        raise Refused("--pareto compares with rivals: add --rivals")
    begin = arguments.outage_at
    return Terms(
        lead_s=arguments.lead,
        seed=arguments.seed,
        least=arguments.min,
        most=arguments.max,
        quota=arguments.quota,
        crash_share=arguments.crash_pct / 100,
        faults=(Fault(arguments.outage, begin, begin + arguments.outage_for),) if arguments.outage else (),
    )


def _objective(trace: Trace) -> str:
    model = trace.model
    what = f"begun within {model.wait_s:g} s" if model.wait_s is not None else f"answered within {model.latency_s:g} s"
    return f"{what}; a replica works on {model.slots} at once"


def _one(trace: Trace, setting: Setting, terms: Terms, progress: Progress) -> tuple[Point, Outcome]:
    name = f"{setting.policy} {setting.words}"
    with progress.of(name, trace.times[-1]) as told:
        outcome = replay(trace, Watched(setting.make(trace.model, terms), told), terms)
    numbers = (f"{outcome.attainment_pct:.2f}", f"{outcome.worst_pct:.2f}", f"{outcome.gpu_hours:.2f}")
    print(_row((name, *numbers, str(outcome.events), str(outcome.reversals))), flush=True)
    point = Point(setting.policy, setting.words, outcome.attainment_pct, outcome.gpu_hours, outcome.events)
    return point, outcome


def _row(cells: tuple[str, ...]) -> str:
    first, *rest = (f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))
    return "".join([f"{first.strip():<{WIDTHS[0]}}", *rest])


def _draw(arguments: argparse.Namespace, trace: Trace, terms: Terms, found: list[tuple[Point, Outcome]]) -> None:
    title = f"{trace.name}, lead time {terms.lead_s:g} s"
    if arguments.svg:
        arguments.svg.write_text(picture.course(title, trace, found[0][1]))
        print(f"drawn: {arguments.svg}")
    if arguments.pareto:
        arguments.pareto.write_text(picture.pareto(title, [point for point, _ in found]))
        print(f"drawn: {arguments.pareto}")


def _complain(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1


def _told(error: Exception) -> str:
    """An error of the system without its number, with the file."""
    return f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.strerror else str(error)


def _bounded(convert: Callable[[str], Number], least: float, most: float, words: str) -> Callable[[str], Number]:
    def parse(text: str) -> Number:
        try:
            number = convert(text)
        except ValueError:
            number = None
        if number is None or not least <= number <= most:
            raise argparse.ArgumentTypeError(f"must be {words}, not {text!r}")
        return number

    return parse


_above_zero = _bounded(float, 1e-6, 1e6, "a number above 0")
_not_below_zero = _bounded(float, 0.0, 1e6, "a number of at least 0")
_percent = _bounded(float, 0.0, 100.0, "between 0 and 100")
_replicas = _bounded(int, 0, 10_000, "a whole number, 0 to 10000")
_slots = _bounded(int, 1, 10_000, "a whole number, 1 to 10000")
