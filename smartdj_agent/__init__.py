"""SmartDJ Agent: audio + instruction → plan → steps → events → files."""

__version__ = "0.1.0"
