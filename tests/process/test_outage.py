"""An outage of days, on a manual clock: the same simulation that `python -m bench week` runs in full."""

from pathlib import Path

from bench.week import live_through
from sendoff_server.spool import ClassLimit, SpoolLimits

MIB = 2**20


async def test_an_outage_of_two_days_costs_resolution_and_no_total(tmp_path: Path) -> None:
    found = await live_through(tmp_path, series=20, seconds=2 * 86_400, every_s=300)
    assert (found.balance, found.lost, found.wrong) == ([], 0, [])
    assert found.rows < 220  # of 576 that were journaled
    assert found.after_bytes < 2 * MIB


async def test_a_backlog_fits_a_limit_that_its_seconds_would_not(tmp_path: Path) -> None:
    """100 series each second for 20 minutes are 2.5 MiB as they come in."""
    limits = SpoolLimits(metrics=ClassLimit(MIB, 30 * 86_400.0, "drop_oldest"))
    found = await live_through(tmp_path, series=100, seconds=1_200, every_s=1, limits=limits)
    assert (found.balance, found.lost, found.wrong) == ([], 0, [])
    assert found.metrics_bytes < MIB
