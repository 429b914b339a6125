"""Numbers with their intervals, and how they are drawn."""
