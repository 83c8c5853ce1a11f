"""A trained run as something to hand on, as a web page that plays, and its generation step for other programs.

`sharing` gathers what a run needs to be played elsewhere, `card` describes it, `manifest` and `formats` write its step;
`webpage` makes one HTML file of it.
"""
