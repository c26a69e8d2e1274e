"""What a lane's core was told and what it wanted, written down without any text, and replayed."""
