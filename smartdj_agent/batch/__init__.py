"""Whole folders without a screen: audio files and REAPER projects, resumable, nothing overwritten."""
