"""A page to play a trained network on: `python -m tierwave play RUN`.

    __main__     the command line
    app          what is answered over HTTP, and to whom
    session      one page's WebSocket
    protocol     the messages on it
    voice        one sound while it is played
    instrument   the run: its networks, what can be asked of them, what this machine carries
    offline      a sound, or curves, made whole
    osc          parameters from Max, Pd, SuperCollider ...
    page/        what the browser shows

Starlette, uvicorn, websockets and python-osc are the extra `[play]`. Nothing here knows a family or a network.
"""
