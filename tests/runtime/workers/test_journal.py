"""What a worker that comes later is told."""

from slipway_runtime.workers.journal import Journal, Models, Past
from tests.runtime.workers.stand_ins import MADE


def test_of_every_model_region_and_setting_the_last_change_is_remembered() -> None:
    journal = Journal()
    for what, arguments in MADE:
        change = {"what": what, "arguments": arguments}
        if what in ("load", "unload"):
            loaded = ["first", "m"] if what == "load" else ["first"]
            journal.add_models(change, Models([], loaded, {}), was_made=True)
        else:
            journal.add(change)
    assert [(made["what"], made["arguments"][0]) for made in journal.after(0) if made["arguments"][0] != "first"] == [
        ("unload", "m"),
        ("unregister", ""),
        ("register", "s"),
        ("log", ""),
    ]
    journal.add({"what": "unregister", "arguments": [""]})
    assert [made["what"] for made in journal.after(journal.number)] == ["unregister", "log"]
    assert journal.after(0)[-1]["arguments"][1] == {"log_verbose_level": 0}


def test_a_config_that_was_given_is_remembered_until_another_load_or_the_unload() -> None:
    journal, have = Journal(), Models([], ["m"], {})
    for config, made, expected in (("{}", True, "{}"), ("bad", False, "{}"), (None, True, None)):
        journal.add_models({"what": "load", "arguments": ["m", config]}, have, was_made=made)
        past = journal.past()
        assert past is not None
        assert past.configs.get("m") == expected
    journal.add_models({"what": "load", "arguments": ["m", "{}"]}, have, was_made=True)
    journal.add_models({"what": "unload", "arguments": ["m"]}, Models([], [], {}), was_made=True)
    assert journal.past() == Past(Models([], [], {}), {})
