"""The training loop, schedules and losses."""
