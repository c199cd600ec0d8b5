"""What the library costs, measured: one module per question; `python -m benchmarks` runs them.

A benchmark is a module with a frozen dataclass `Config` (`Config.quick()` takes seconds), `run(config)`, which
returns what was measured as a dict fit for JSON, and `report(results)`, which returns it as tables.
"""
