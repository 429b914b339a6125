"""Images to prototypes, texts to similarities."""
