"""The pure parts of the benchmark of fetching: ratios, and what is told when a peer is missing."""

from e2e.bench.fetch.__main__ import LARGE, SMALL, Results, ratios, table
from e2e.bench.fetch.tools import AWS, FIRST, KSERVE, OURS, RCLONE, SECOND, Run


def results(**seconds: tuple[float, float]) -> Results:
    names = {"ours": OURS, "rclone": RCLONE, "aws": AWS, "kserve": KSERVE, "first": FIRST, "second": SECOND}
    return {
        (load, names[tool]): [Run(each, 1.0, 40.0), Run(each * 9, 1.0, 60.0), Run(each, 1.0, 50.0)]
        for tool, pair in seconds.items()
        for load, each in zip((LARGE, SMALL), pair, strict=True)
    }


def test_ours_is_held_against_the_best_of_each_and_the_worse_of_kserves() -> None:
    found = ratios(results(ours=(2, 4), rclone=(3, 4), aws=(2, 8), kserve=(10, 12)))
    assert found == {
        "s3_4gib_ratio_vs_best": 1.0,
        "s3_small_ratio_vs_best": 1.0,
        "ratio_vs_kserve": 3.0,
        "rss_mib": 60.0,
        "second_start_same_node_ratio": None,
    }


def test_a_second_start_is_held_against_a_first_one_without_a_cache_and_the_worse_counts() -> None:
    found = ratios(results(ours=(2, 4), first=(3, 5), second=(0.5, 2)))
    assert found["second_start_same_node_ratio"] == 0.5


def test_without_a_peer_there_is_no_ratio() -> None:
    found = ratios(results(ours=(2, 4)))
    assert (found["s3_4gib_ratio_vs_best"], found["ratio_vs_kserve"]) == (None, None)


def test_the_table_has_a_column_for_each_tool() -> None:
    lines = table(results(ours=(2, 4), rclone=(3, 4))).splitlines()
    assert lines[0] == "| | slipway | rclone |"
    assert lines[2] == "| one large file, s | 2.0 | 3.0 |"
