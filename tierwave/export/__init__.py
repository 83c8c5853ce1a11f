"""A trained run as something to hand on, and its generation step for programs without TensorFlow.

`webpage` makes it one HTML file that plays. `sharing` gathers what a run needs to be played elsewhere, `card` describes it, `manifest` and `formats` write its step.
"""
