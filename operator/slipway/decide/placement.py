"""Where pods that ask for a device may run: the administrator's word, which a service adds to and cannot take back."""

import json
from collections.abc import Iterator, Sequence

from slipway.api.conditions import Reason
from slipway.api.model import Resources
from slipway.api.v1alpha1 import Predictor, Toleration
from slipway.decide.drift import quantity
from slipway.decide.types import Refusal, Rule

NO_DEVICE = "cpu"
"""The resource of the rule for pods that ask for no device."""


def parse(text: str) -> tuple[Rule, ...]:
    """Of the operator's own variable.

    Raises:
        ValueError: it is not what the chart writes.
    """
    return tuple(
        Rule(
            rule["resource"],
            rule.get("nodeSelector", {}),
            tuple(Toleration.model_validate(each) for each in rule.get("tolerations", ())),
        )
        for rule in json.loads(text or "[]")
    )


def effective(own: Resources, default: Resources) -> Resources:
    """A service that names any resources names all of them."""
    return own if own.requests or own.limits else default


def devices(resources: Resources) -> tuple[str, ...]:
    """Names of the devices that a pod gets, such as nvidia.com/gpu or nvidia.com/mig-1g.10gb."""
    return tuple(sorted(name for name, amount in resources.limits.items() if "/" in name and quantity(amount) != 0))


def matches(pattern: str, resource: str) -> bool:
    """Whether a resource has that name; a * at the end of a pattern is any rest."""
    return resource.startswith(pattern[:-1]) if pattern.endswith("*") else resource == pattern


def place(predictor: Predictor, default: Resources, rules: Sequence[Rule]) -> Predictor | Refusal:
    """The predictor as its pods are made: with labels and taints of the first rule for each device that it asks for."""
    selector, tolerations = dict(predictor.node_selector), list(predictor.tolerations)
    for asked, rule in _rules(devices(effective(predictor.model.resources, default)), rules):
        for label, value in rule.node_selector.items():
            if selector.setdefault(label, value) != value:
                return Refusal(
                    Reason.PLACEMENT_REFUSED,
                    f"spec.predictor.nodeSelector: pods that ask for {asked} run on nodes with {label}={value}, as the "
                    f"administrator says, not {selector[label]}; leave {label} out",
                )
        tolerations += [one for one in rule.tolerations if one not in tolerations]
    return predictor.model_copy(update={"node_selector": selector, "tolerations": tolerations})


def _rules(asked: Sequence[str], rules: Sequence[Rule]) -> Iterator[tuple[str, Rule]]:
    for resource in asked or (NO_DEVICE,):
        found = next((rule for rule in rules if matches(rule.resource, resource)), None)
        if found is not None:
            yield resource if asked else "no device", found
