"""A trained run as something to hand on, and its generation step for programs without TensorFlow.

`sharing` gathers what a run needs to be played elsewhere, `card` describes it, `manifest` and `formats` write its step.
"""
