"""One self-contained HTML page about a run: `python -m tierwave report RUN`.

`collect` reads and measures what there is to tell, `sections` writes it down, `page` knows HTML and SVG, and `__main__`
is the command line. Knows runs and what `tierwave` measures; asks the family for whatever is the family's own.
"""
