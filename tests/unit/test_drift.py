from typing import Any

import pytest

from slipway.decide.drift import quantity, same


@pytest.mark.parametrize(
    ("wanted", "live"),
    [
        pytest.param({"a": 1}, {"a": 1, "protocol": "TCP"}, id="a default of the API server"),
        pytest.param({"memory": "1024Mi"}, {"memory": "1Gi"}, id="a rewritten quantity"),
        pytest.param({"cpu": "0.5"}, {"cpu": "500m"}, id="a rewritten fraction"),
        pytest.param({"env": [{"name": "A", "value": ""}]}, {"env": [{"name": "A"}]}, id="an empty value left out"),
        pytest.param({"emptyDir": {}}, {"emptyDir": {}, "creationTimestamp": None}, id="a null"),
    ],
)
def test_what_the_api_server_writes_its_own_way_is_no_drift(wanted: Any, live: Any) -> None:
    assert same(wanted, live)


@pytest.mark.parametrize(
    ("wanted", "live"),
    [
        pytest.param({"image": "a"}, {"image": "b"}, id="another value"),
        pytest.param({"a": 1}, {}, id="a missing field"),
        pytest.param({"a": 1}, {"a": 1, "hostNetwork": True}, id="an added field"),
        pytest.param([{"name": "a"}], [{"name": "a"}, {"name": "b"}], id="an added item"),
        pytest.param([1, 2], [2, 1], id="another order"),
        pytest.param({"memory": "1Gi"}, {"memory": "1G"}, id="another unit"),
        pytest.param({"securityContext": {"a": 1}}, {"securityContext": {}}, id="emptied"),
        pytest.param({"a": 1}, {"a": 1, "protocol": "UDP"}, id="not the default"),
    ],
)
def test_what_somebody_changed_is_drift(wanted: Any, live: Any) -> None:
    assert not same(wanted, live)


@pytest.mark.parametrize(("text", "number"), [("500m", "0.5"), ("8Gi", str(8 * 2**30)), (2, "2"), ("1e3", "1000")])
def test_quantities_are_numbers(text: Any, number: str) -> None:
    assert str(quantity(text)) in (number, f"{number}.0", f"{number}.000") or float(quantity(text) or 0) == float(
        number
    )


@pytest.mark.parametrize("text", ["", "model", "8 GB", "Mi", None, "0x1"])
def test_other_text_is_no_quantity(text: Any) -> None:
    assert quantity(text) is None
