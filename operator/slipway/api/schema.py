"""Building blocks of the CRD models: bounded strings, quantities, durations, CEL rules.

Every type here carries its bounds into the generated CRD, so that a wrong value is refused by the API server at
`kubectl apply`, without a webhook. What cannot be said in a schema is said in CEL (`rule`), always with a sentence.
"""

import re
from datetime import datetime
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel


class Schema(BaseModel):
    """Base of everything in a CRD: camelCase outside, snake_case inside, frozen.

    Unknown fields are ignored here, so that a CRD newer than this operator does not stop it; refusing them is the API
    server's work (strict field validation, pruning).
    """

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


def rule(cel: str, message: str, *, value: str = "") -> dict[str, str]:
    """One `x-kubernetes-validations` entry.

    With `value`, a CEL expression of a string, the refused value is quoted after the message. The bare message stays
    beside it: the API server falls back to it where the value has a line break in it.
    """
    quoted = {"messageExpression": f"""'{message}, not "' + {value} + '"'"""} if value else {}
    return {"rule": cel, "message": message} | quoted


def rules(*entries: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"x-kubernetes-validations": list(entries), **more}


def list_map(*keys: str) -> dict[str, Any]:
    """A list whose items are identified by `keys`, so that several writers can own different items."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}
WHOLE_MAP: dict[str, Any] = {"x-kubernetes-map-type": "atomic"}
"""Applied as one: of a map that is merged by key, an apply that takes the last key away leaves null."""

DnsLabel = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
QualifiedName = Annotated[
    str,
    Field(
        max_length=317,
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
    ),
]
Image = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")]
HttpPath = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^/([A-Za-z0-9._~/-]|\{name\})*$")]
Message = Annotated[str, Field(max_length=2048)]
Time = Annotated[str, Field(max_length=64), WithJsonSchema({"type": "string", "format": "date-time"})]

Duration = Annotated[str, Field(max_length=32)]
DURATION_RULE = rule(
    "self.matches('^([0-9]+(ms|s|m|h))+$')", "must be a duration such as 500ms, 10s or 1m30s", value="self"
)

# An int-or-string may not carry a `type`, so its text is checked by CEL. What the API server would store otherwise than
# it is written, such as 1n of cpu or more than 64 bits, would differ from what is wanted for ever.
QUANTITY_RULE = rule(
    "type(self) == int ? self >= 0 : "
    "self.matches('^([0-9]{1,15}([.][0-9]{1,3})?([kMGTPE]|[KMGTPE]i)?|[0-9]{1,15}m)$')"
    " && quantity(self).compareTo(quantity('8Ei')) < 0",
    "must be a quantity such as 2, 500m or 8Gi",
    value="string(self)",
)
Quantity = Annotated[
    int | str,
    WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": 32, "x-kubernetes-validations": [QUANTITY_RULE]}),
]

SIZE_RULE = rule(
    "type(self) == int ? self > 0 : !isQuantity(self) || quantity(self).compareTo(quantity('1')) >= 0",
    "must be at least one byte, such as 8Gi",
    value="string(self)",
)
Size = Annotated[
    int | str,
    WithJsonSchema(
        {"x-kubernetes-int-or-string": True, "maxLength": 32, "x-kubernetes-validations": [QUANTITY_RULE, SIZE_RULE]}
    ),
]
"""Bytes, and not none of them."""

PERCENT_RULE = rule(
    "type(self) == int ? self >= 0 && self <= 100 : self.matches('^(100([.]0{1,2})?|[0-9]{1,2}([.][0-9]{1,2})?)%$')",
    "must be a share such as 5% or 33.33%",
    value="string(self)",
)
Percent = Annotated[
    int | str,
    WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": 16, "x-kubernetes-validations": [PERCENT_RULE]}),
]
PROMQL_MAX = 2048

SECONDS = {"ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600)}


@lru_cache(maxsize=1024)
def seconds(duration: str) -> float:
    """Length of a `Duration` in seconds: `1m30s` -> 90.0.

    Raises:
        ValueError: not a duration.
    """
    parts = re.findall(r"([0-9]+)(ms|s|m|h)", duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        raise ValueError(f"must be a duration such as 500ms, 10s or 1m30s, not {duration!r}")
    return float(sum(int(number) * SECONDS[unit] for number, unit in parts))


def timestamp(moment: datetime) -> str:
    """A moment as Kubernetes writes times: UTC, to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


ConditionStatus = Literal["True", "False", "Unknown"]
