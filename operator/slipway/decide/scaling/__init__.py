"""How many replicas a revision shall have. `decide` is the one function; everything it remembers is `ScalingState`.

types.py      what is seen            capacity.py   what one replica carries
settings.py   what is wanted          lead.py       how long a launch takes
schedules.py  times of the day        forecast.py   requests at the lead time; season.py: the usual day
trust.py      who may be believed     staffing.py   from requests to replicas
look.py       one look, all learnt    hindsight.py  what would have been enough of late
decision.py   the decision            zero.py, limits.py  sleep; what stands in the way
"""

from slipway.decide.scaling.decision import decide as decide
