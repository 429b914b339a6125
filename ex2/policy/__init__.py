"""The LLM that speaks: its weights, its checks, and the sampling of descriptions."""
