"""What is asked and what is said: questions, descriptions, pairs, categories."""
