"""A trained model over HTTP for OpenAI's clients, and a page to try it.

``schema`` has the requests and answers, ``guard`` decides which requests are answered. ``batch``
runs them together in the engine; ``choices`` and ``completions`` turn tokens into answers. ``app``
has the routes, ``connection`` the timeouts, ``server`` starts and stops it all.
"""
