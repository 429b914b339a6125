"""Build of the embedded pictogram image set and its small dual encoder (see README.md in this folder)."""
