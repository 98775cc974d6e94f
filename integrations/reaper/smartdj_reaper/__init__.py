"""SmartDJ inside REAPER. Needs nothing but Python's standard library: third-party packages crash REAPER's Python.

`api` is the only module that calls REAPER; `segment` decides which samples an item stands for; `dialogs` asks;
`helper` runs ``smartdj reaper-job``; `apply` makes takes; `takes` keeps what they are made of; `session` joins them.
Works with any Python from 3.8 on, whichever REAPER was given.
"""

VERSION = "0.1.0"
