"""From a request to a trained run: the session, the loop, what happens around it, devices."""
