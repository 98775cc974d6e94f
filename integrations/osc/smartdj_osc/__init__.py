"""Open Sound Control in front of SmartDJ: a live-performance door to the agent or its server."""
