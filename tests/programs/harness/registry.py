"""The list of cases. A family file registers its cases when it is imported."""

import dataclasses
from typing import Callable


@dataclasses.dataclass(frozen=True)
class Case:
    name: str  # "family/behaviour"
    run: Callable  # takes a context.Context
    full: bool  # only with --full: too heavy for every run
    plain: bool  # makes sense without inlay as well (--plain)
    always_plain: bool  # a control: never under inlay
    timeout: int  # seconds; a safety net, never a criterion


CASES: dict[str, Case] = {}


def add(name, run, *, full=False, plain=False, always_plain=False, timeout=180):
    if name in CASES:
        raise ValueError(f"two cases are called {name}")
    CASES[name] = Case(name, run, full, plain, always_plain, timeout)


def case(name, **options):
    """Decorator form of add()."""

    def register(function):
        add(name, function, **options)
        return function

    return register
