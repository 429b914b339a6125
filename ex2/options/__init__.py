"""What a run is asked to be: options, their parsing, and what is refused before anything is loaded."""
