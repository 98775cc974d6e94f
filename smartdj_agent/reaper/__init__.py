"""SmartDJ in REAPER: what puts our scripts, actions and menu lines into a resource folder and takes them out again.

`ini` edits the text of REAPER's files, `paths` finds folders, `processes` tells whether REAPER runs, `scripts`
reads what we ship, `python_library` finds a Python that REAPER can load, `install` plans and carries out,
`doctor` examines, `cli` is the door. `job` is the helper process of the scripts in ``integrations/reaper/``. Nothing
here was ever run against a real REAPER; the formats are those of users' published files and of the community's
descriptions.
"""
