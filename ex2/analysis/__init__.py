"""What descriptions say and what they are worth: statistics with intervals, reports and plots."""
