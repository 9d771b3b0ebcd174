"""The table of all scenarios. One is asked for as the ``model`` of a request.

To add one: a line in one of the tables, by what becomes of it: ``scenarios_broken`` and
``scenarios_errors``, ``scenarios_rescued``, ``scenarios_mended``, ``scenarios_passed``; and a
function in ``misbehaviour`` or its neighbours if no existing one fits.
"""

from __future__ import annotations

from proxy.demo.answers import Answer, Asked, reply
from proxy.demo.misbehaviour import healthy
from proxy.demo.scenario import Scenario
from proxy.demo.scenarios_broken import STOPS
from proxy.demo.scenarios_errors import ERRORS
from proxy.demo.scenarios_mended import FORMS
from proxy.demo.scenarios_passed import ENDINGS, PASSED
from proxy.demo.scenarios_rescued import RESCUED

__all__ = ["SCENARIOS", "Scenario", "answer_for"]

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario for scenario in (*PASSED, *FORMS, *STOPS, *ERRORS, *RESCUED, *ENDINGS)
}


def answer_for(asked: Asked, attempt: int) -> Answer:
    """Answer by the scenario that the model names, or else as a healthy server would."""
    scenario = SCENARIOS.get(asked.model)
    if asked.endpoint == "models" and not (scenario and scenario.happens(asked, attempt)):
        return _models()
    return scenario.answer(asked, attempt) if scenario else healthy(asked, attempt)


def _models() -> Answer:
    owned = {"object": "model", "created": 1_790_000_000, "owned_by": "wholestream"}
    return reply(200, {"object": "list", "data": [{"id": name, **owned} for name in SCENARIOS]})
