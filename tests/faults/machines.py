"""Running stateful models: shallow with the other tests, deep when that is asked for.

`ERRAND_FAULTS=all` asks for it.
"""

import os

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

_IS_DEEP = os.environ.get("ERRAND_FAULTS") == "all"
_DEEP_STEPS = 20


def run_machine(
    machine: type[RuleBasedStateMachine], *, examples: int, steps: int, deep: int
) -> None:
    """Run a model; it takes as long as it takes.

    Args:
        machine: The model.
        examples: How often.
        steps: What happens each time, at most.
        deep: How often where that is asked for, each time with 20 steps.
    """
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=deep if _IS_DEEP else examples,
            stateful_step_count=_DEEP_STEPS if _IS_DEEP else steps,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
