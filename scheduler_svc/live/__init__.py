"""What lanes show of themselves while somebody looks."""
