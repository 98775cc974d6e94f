"""Which planner: the preset's own, the shipped one, or a chat endpoint; all with one interface, `Planner`."""

from __future__ import annotations

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.models.weights import is_installed
from smartdj_agent.planner import NETWORKS, Planner
from smartdj_agent.planner_endpoint import EndpointPlanner, endpoint_from_environment

PLANNERS = ("auto", *NETWORKS, "endpoint")


def check_planner(name: str) -> str:
    """Return the name.

    Raises
    ------
    SmartDJError
        USAGE if there is no planner of that name.
    """
    if name not in PLANNERS:
        raise SmartDJError(
            ErrorCode.USAGE, f"There is no planner named {name!r}.", f"Use {', '.join(PLANNERS)}.", "--planner"
        )
    return name


def open_planner(name: str, preset: str, device: str, encoder: SentenceEncoder) -> Planner:
    """Open a planner; its network is loaded when it is first needed.

    Parameters
    ----------
    name
        One of `PLANNERS`; ``auto`` is the preset's own where it is installed, else the shipped one.
    preset
        Of the agent.
    device
        A torch device name.
    encoder
        Sentence encoder.

    Raises
    ------
    SmartDJError
        USAGE for an unknown name, ENDPOINT_FAILED where the environment names no endpoint.
    """
    check_planner(name)
    if name == "endpoint":
        return EndpointPlanner(endpoint_from_environment(), encoder)
    if name == "auto":
        name = preset if preset in NETWORKS and is_installed(preset, "planner") else "small"
    return Planner(name, device, encoder)
