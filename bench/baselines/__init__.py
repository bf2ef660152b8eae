"""What one would write without Passline: whole applications, to be measured beside it."""
