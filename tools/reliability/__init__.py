"""Faults on purpose, at real headless ComfyUI servers: what a person or a machine may do to a run, and what is left of it.

Each part is a module with `COUNT`, how many cases it has, and `run`, which makes them one by one.
"""
