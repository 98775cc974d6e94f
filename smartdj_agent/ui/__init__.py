"""The local page: drop a recording, say what it should become, watch, compare, download.

A thin door. `smartdj_agent.ui.session` is what a person sees, without widgets; `desk` lets an agent server work,
through `smartdj_agent.client` alone; `page` shows the one and calls the other; `web` serves it on loopback.
"""
