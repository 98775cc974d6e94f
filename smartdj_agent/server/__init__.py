"""The agent as a gRPC service: jobs, their audio and their events, for other programs on this machine or beyond."""
