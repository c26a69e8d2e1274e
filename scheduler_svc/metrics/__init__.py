"""What a scheduler tells of itself in numbers: its lanes' turns, its outputs, its queue."""
