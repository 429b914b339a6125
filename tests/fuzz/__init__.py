"""Commands against what users, disks and strangers may give them: each ends well, or with one line and status 2.

python -m tests.fuzz                   # all cases, with a table by kind; --quick: those of the tests; --only KIND ...; --list
python -m tests.fuzz.images            # mutated images of every format through the image bank
python -m tests.fuzz.files             # mutated files of texts, tables, labels and options through their readers
python -m tests.fuzz.kills             # a training run killed at 20 random moments
"""
