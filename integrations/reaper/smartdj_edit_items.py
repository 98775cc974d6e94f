# @description SmartDJ: Edit items
# @version 0.1.0
# @author SmartDJ Agent
# @about Edits the selected items from an instruction, after you have looked at the plan.
# @smartdj_action SMARTDJ_EDIT_ITEMS
# @smartdj_menu item SmartDJ: edit…
import os
import sys

from reaper_python import RPR_GetResourcePath


def _find():
    """Put the folder with our modules on Python's path; a script isn't told its own place everywhere."""
    beside = os.path.dirname(os.path.abspath(__file__)) if "__file__" in globals() else ""
    scripts = RPR_GetResourcePath() + "/Scripts/SmartDJ"
    for folder in (beside, scripts, scripts + "/Items"):
        if folder and os.path.isdir(os.path.join(folder, "smartdj_reaper")):
            if folder not in sys.path:
                sys.path.insert(0, folder)
            return


_find()

from smartdj_reaper.session import run

run(globals(), "items")
