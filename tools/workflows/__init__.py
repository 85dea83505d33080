"""The workflows that ship with the pack, written as code; `python -m tools.workflows` makes the files from it."""
