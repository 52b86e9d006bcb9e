"""A trained model over HTTP, as OpenAI's clients speak it, and the page to try it on.

``schema`` says what may be asked, ``openapi`` publishes it, ``guard`` says who may ask; ``batch``
runs what is asked together in the engine, ``choices`` and ``completions`` turn tokens into answers;
``app`` has the routes, ``connection`` the time for slow clients, ``server`` begins and ends.
"""
