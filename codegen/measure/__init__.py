"""What a machine does: its levels measured, schedules timed, attention observed."""
