"""A page to play a trained network on: `python -m tierwave play RUN`.

    app          HTTP: routes, and who is answered
    session      one page's WebSocket
    protocol     the messages on it
    voice        one sound while it is played
    morph        its networks on their way to others
    watch        newer checkpoints, which all voices go over to
    instrument   the run: its networks, the values they take, their speed on this machine
    offline      a sound, or curves, made whole
    osc          values and orders from Max, Pd, SuperCollider ...
    osc_out      levels, values and events for them
    page/        what the browser shows

Starlette, uvicorn, websockets and python-osc are the extra `[play]`; `tierwave/cli/play.py` starts the server.
"""
