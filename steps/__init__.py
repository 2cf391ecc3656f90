"""Stage programs of the recipe (`steps/*.py`, one per verb) and the library they stand on (the subpackages)."""
