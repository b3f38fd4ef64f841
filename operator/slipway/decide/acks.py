"""How far the gateways are with a routing, from what they last said.

Only gateways that take traffic count. One that has said nothing of a routing since it was written has not taken it,
however long ago it took one of the same content.
"""

from dataclasses import dataclass

from slipway.decide.types import Observed


@dataclass(frozen=True, slots=True)
class Acks:
    known: bool
    """Whether it is known which gateways there are."""
    taken: tuple[str, ...] = ()
    """Names of the gateways that serve it, of those that take traffic."""
    missing: tuple[str, ...] = ()
    refusals: tuple[tuple[str, str], ...] = ()
    """Gateway, and why it cannot serve it; they are among the missing."""
    notes: tuple[str, ...] = ()
    """What gateways say besides, each sentence once."""
    serving: int = 0
    """Gateways that serve this or an earlier routing: those lead to pods that are kept, until all have taken this."""

    @property
    def of(self) -> int:
        return len(self.taken) + len(self.missing)

    @property
    def is_complete(self) -> bool:
        """Whether no gateway leads anywhere else. Not known is not so; no gateway at all is."""
        return self.known and not self.missing


def count(observed: Observed, version: str, *, written: bool) -> Acks:
    """Acknowledgements of the routing `version`; there are none of one that is not written yet."""
    if observed.gateways is None:
        return Acks(known=False)
    behind = sorted((g for g in observed.gateways if g.takes_traffic), key=lambda g: g.name)
    fresh = [g for g in behind if written and g.age_s <= observed.routing_age_s]
    taken = {g.name for g in fresh if g.taken == version}
    return Acks(
        known=True,
        taken=tuple(g.name for g in behind if g.name in taken),
        missing=tuple(g.name for g in behind if g.name not in taken),
        refusals=tuple((g.name, g.words) for g in fresh if g.refused == version and g.name not in taken),
        notes=tuple(sorted({g.note for g in behind if g.note})),
        serving=sum(bool(g.taken) for g in behind),
    )
