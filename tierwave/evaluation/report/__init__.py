"""One self-contained HTML page about a run: `python -m tierwave report RUN`.

`collect` reads and measures its content, `page` fills `report.html.j2` with it.
"""
