"""`slipway simulate`: what is printed and drawn, its exit codes, and what it says about files that are no traces."""

import io
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TextIO
from xml.etree import ElementTree as XML

import pytest

from slipway import cli
from slipway.sim.progress import Progress

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
PROGRESS = r"(.+: \d+ % in \d+ s\n)*"
"""On stderr, should this machine take more than two seconds for a replay."""


def slipway(*arguments: str | float | Path) -> int | str | None:
    """Exit code."""
    with pytest.raises(SystemExit) as caught:
        cli.main(list(map(str, arguments)))
    return caught.value.code


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    path = tmp_path / "load.txt"
    path.write_text("2\n" * 120)
    return path


def test_a_trace_is_replayed_into_a_table_of_eighty_columns(counts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert slipway("simulate", "--trace", counts, "--lead", 20, "--rivals", "--uses", 0.5) == 0
    printed, told = capsys.readouterr()
    first, objective, head, *rows = printed.splitlines()
    assert first.startswith("load: ")
    assert "answered within 10 s" in objective
    assert {row.split()[0] for row in rows} == {"slipway", "keda", "hpa", "kpa", "ray"}
    assert head.split()[-1] == "reversals"
    assert max(map(len, printed.splitlines())) <= 80
    assert re.fullmatch(PROGRESS, told)


def test_load_and_replicas_are_drawn_over_time_and_settings_over_cost(counts: Path, tmp_path: Path) -> None:
    course, pareto = tmp_path / "course.svg", tmp_path / "pareto.svg"
    wanted = ("--rivals", "--uses", 0.5, "--svg", course, "--pareto", pareto)
    assert slipway("simulate", "--trace", counts, "--lead", 20, *wanted) == 0
    words = [{text.text for text in XML.parse(path).getroot().iter(f"{SVG}text")} for path in (course, pareto)]  # noqa: S314 - our own
    assert {"replicas asked for", "replicas ready", "minutes"} <= words[0]
    assert {"GPU hours", "keda"} <= words[1]
    lines = [path.attrib["d"] for path in XML.parse(course).getroot().iter(f"{SVG}path")]  # noqa: S314
    assert all("nan" not in line and "inf" not in line for line in lines)


def test_the_model_and_the_objective_can_be_the_users_own(counts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ("--service", 3, "--slots", 1, "--queue-time", 0)
    assert slipway("simulate", "--trace", counts, "--lead", 5, "--initial", 1, "--max", 1, *own) == 0
    _, objective, _, row = capsys.readouterr().out.splitlines()
    assert "begun within 0 s" in objective
    assert float(row.split()[2]) < 10.0, "two requests a second of three seconds each are too much for one at a time"


def test_one_that_may_sleep_starts_from_nothing_where_that_is_said(
    counts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slipway("simulate", "--trace", counts, "--lead", 5, "--min", 0, "--initial", 0) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert float(row.split()[2]) > 80.0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param("", "there is no request in it", id="empty"),
        pytest.param("0\n0\n", "there is no request in it", id="only zeros"),
        pytest.param("3\nfour\n", "number 2 is 'four'", id="a word among numbers"),
        pytest.param("3\n-1\n", "number 2 is '-1'", id="a negative number"),
        pytest.param("nan\n", "number 1 is 'nan'", id="not a number"),
        pytest.param("1e300\n", "number 1 is '1e300'", id="more than anybody asks"),
        pytest.param("4000000\n4000000\n", "take a part of it", id="more than fits"),
        pytest.param("\x89PNG\x00\udcff", "it is no text", id="a picture"),
        pytest.param("TIMESTAMP,GeneratedTokens\n2023-11-16 18:17:04,3\n", "it has no ContextTokens", id="no column"),
        pytest.param("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1\n", "yesterday", id="no time"),
        pytest.param("TIMESTAMP,ContextTokens,GeneratedTokens\n", "there is no request in it", id="only a head"),
        pytest.param('{"timestamp": 1}', "it has no output_length", id="no length"),
        pytest.param('{"timestamp": 1, "output_length": -9, "input_length": 0}', "-9 tokens", id="negative tokens"),
        pytest.param('{"timestamp": NaN, "output_length": 1, "input_length": 0}', "no number", id="no moment"),
        pytest.param('{"timestamp": 1,', "not a trace in a known format", id="cut off"),
        pytest.param(
            "".join(f'{{"timestamp": {k}e12, "output_length": 1, "input_length": 0}}\n' for k in (1, 2)),
            "days; 60 days and",
            id="another unit of time",
        ),
    ],
)
def test_a_file_that_is_no_trace_is_refused_with_what_is_wrong_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, words: str
) -> None:
    path = tmp_path / "trace"
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert slipway("simulate", "--trace", path) == 1
    printed, told = capsys.readouterr()
    assert words in told
    assert f"cannot replay {path}: " in told
    assert told.count("\n") == 1
    assert printed == ""


def test_a_file_that_is_not_there_is_told_with_the_names_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert slipway("simulate", "--trace", "nowhere.csv") == 1
    assert "nowhere.csv: there is no such file, and it is none of step, ramp" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        pytest.param(["--min", "4", "--max", "2"], 1, "--min 4 is more than --max 2", id="bounds"),
        pytest.param(["--pareto", "x.svg"], 1, "add --rivals", id="nothing to compare with"),
        pytest.param(["--lead", "0"], 2, "--lead: must be a number above 0, not '0'", id="no lead time"),
        pytest.param(["--lead", "nan"], 2, "must be a number above 0", id="not a number"),
        pytest.param(["--slots", "1.5"], 2, "must be a whole number", id="half a slot"),
        pytest.param(["--crash-pct", "101"], 2, "between 0 and 100", id="a share above all"),
        pytest.param(["--latency", "1", "--queue-time", "1"], 2, "not allowed with", id="two objectives"),
        pytest.param(["--svg", "/proc/nowhere/x.svg"], 1, "a folder that exists", id="nowhere to draw"),
    ],
)
def test_wrong_arguments_are_told_with_what_to_do(
    counts: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    assert slipway("simulate", "--trace", counts, *arguments) == code
    assert words in capsys.readouterr().err


def test_the_command_names_itself_and_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert slipway("--version") == 0
    assert capsys.readouterr().out.startswith("slipway ")
    assert slipway("--help") == 0
    assert "simulate" in capsys.readouterr().out
    assert slipway() == 2


def test_what_is_installed_as_slipway_is_this_command() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["slipway"] == f"{cli.__name__}:{cli.main.__name__}"


def test_it_needs_nothing_but_what_the_package_always_brings() -> None:
    """Not what the operator, the gateway or the runtime need besides."""
    words = "import sys; from slipway import cli; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", words]
    loaded = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "operator", check=True)  # noqa: S603
    extras = {"kopf", "kubernetes", "aiohttp", "promql_parser", "uvloop", "grpc", "numpy", "torch", "yaml"}
    assert set(loaded.stdout.split()) & extras == set()


def test_whoever_closes_the_pipe_early_gets_no_traceback(counts: Path) -> None:
    command = [sys.executable, "-m", "slipway", "simulate", "--trace", str(counts), "--lead", "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT / "operator") as process:  # noqa: S603
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=50) == 0
        assert re.fullmatch(PROGRESS, process.stderr.read().decode())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def progress_of(out: TextIO, moments: list[float]) -> None:
    """A replay of 100 virtual seconds that is looked at when the clock says `moments`, the first of them its begin."""
    clock = iter(moments)
    with Progress(out, lambda: next(clock)).of("ours", 100.0) as told:
        for number in range(1, len(moments)):
            told(10.0 * number)


def test_a_long_replay_tells_how_far_it_is_and_cleans_up_after_itself() -> None:
    terminal = Terminal()
    progress_of(terminal, [0.0, 1.0, 2.5, 2.6, 3.1])
    assert terminal.getvalue().split("\r")[1:] == [
        "ours: 20 % in 2 s",
        "ours: 40 % in 3 s",
        " " * len("ours: 40 % in 3 s"),
        "",
    ]


def test_a_replay_of_less_than_two_seconds_tells_no_progress() -> None:
    terminal, log = Terminal(), io.StringIO()
    for out in (terminal, log):
        progress_of(out, [0.0, 0.5, 1.0, 1.9])
        assert out.getvalue() == ""


def test_in_a_log_progress_is_a_line_now_and_then() -> None:
    log = io.StringIO()
    progress_of(log, [0.0, 3.0, 4.0, 5.0, 18.5])
    assert log.getvalue() == "ours: 10 % in 3 s\nours: 40 % in 18 s\n"
